//! How many frames there are, of what size, and for whom.

use std::fmt;

use super::offload;
use crate::config::DaemonConfig;
use crate::config::daemon::{Frames, Offload};
use crate::words::counted;

/// What the kernel keeps free in front of a received packet, in bytes (`XDP_PACKET_HEADROOM`).
const KERNEL_HEADROOM: u32 = 256;
/// What a frame holds beside the IP packet: an Ethernet header and a VLAN tag.
const LINK_OVERHEAD: u32 = 18;
/// What the kernel keeps for each frame and each queue of a device with a socket, in bytes: `struct xdp_buff_xsk`.
/// Measured on Linux 6.18: 12 sockets on 72,448 frames took 124 MB of vmalloc memory.
const KERNEL_PER_FRAME: u64 = 128;
/// Frames that a pod's busy queue has to receive.
pub(super) const BUSY_RING: u32 = 512;
/// Pods that can be busy at the same time, each with as many.
const BUSY_PODS: u32 = 10;
/// Frames beyond those in rings: batches under way, packets that wait, ICMP errors, fragments.
const SLACK: u32 = 4096;

/// The memory of packets, as planned at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes a frame.
    pub frame_size: u32,
    /// Frames a poller.
    pub per_poller: u32,
    /// Pollers.
    pub pollers: u32,
    /// Pods that it is enough for.
    pub max_pods: u32,
    /// Frames in the receive rings of one pod's port, at rest.
    pub pod_ring: u32,
    /// Frames a poller for pods that are busy.
    pub extra: u32,
    /// Frames in the receive ring of one uplink queue.
    pub uplink_ring: u32,
    /// Queues with sockets when all pods are there: of pods, the host's port and uplinks.
    pub sockets: u32,
    /// Whether pods' packets are received by the punt device, and so none of them has a ring of its own to receive.
    pub offloaded: bool,
}

impl Budget {
    /// The plan for `pollers` pollers, of which each serves `uplink_queues` queues of uplinks at most, and interfaces of
    /// at most `mtu`.
    pub fn plan(
        frames: &Frames,
        max_pods: u16,
        pollers: u32,
        uplink_queues: u32,
        mtu: u32,
    ) -> Self {
        let frame_size = frames
            .size
            .unwrap_or(if Self::fits(mtu, 2048) { 2048 } else { 4096 });
        let max_pods = u32::from(max_pods);
        // Receive and send side of uplinks; receive side of pods and the host. What is sent to pods was received on the
        // uplinks, or is on its way within the slack.
        let at_rest =
            uplink_queues * 2 * frames.uplink_ring + (max_pods + 1) * frames.pod_ring + SLACK;
        let extra = BUSY_RING.saturating_sub(frames.pod_ring) * BUSY_PODS.min(max_pods + 1);
        let needed = at_rest + extra;
        let per_poller = frames.total.map_or(needed, |total| total / pollers.max(1));
        Self {
            frame_size,
            per_poller,
            pollers,
            max_pods,
            pod_ring: frames.pod_ring,
            // Of a total that was given only what is left.
            extra: extra.min(per_poller.saturating_sub(at_rest)),
            uplink_ring: frames.uplink_ring,
            sockets: pollers * (max_pods + 1 + uplink_queues),
            offloaded: false,
        }
    }

    /// The same with `offload: kernel`: all is received by the punt device and the host's port.
    fn plan_offloaded(config: &DaemonConfig, pollers: u32, uplink_queues: u32, mtu: u32) -> Self {
        let frames = &config.frames;
        let plan = Self::plan(frames, config.max_pods, pollers, uplink_queues, mtu);
        // What the uplinks send, and the punt receives.
        let punt = offload::queues(config).div_ceil(pollers) * offload::ring(config);
        let needed = uplink_queues * frames.uplink_ring + punt + frames.pod_ring + SLACK;
        Self {
            per_poller: frames.total.map_or(needed, |_| plan.per_poller),
            extra: 0,
            sockets: plan.sockets + offload::queues(config),
            offloaded: true,
            ..plan
        }
    }

    /// The plan for a node whose uplinks have so many queues that are served, and interfaces of at most `mtu`.
    pub fn of(config: &DaemonConfig, uplink_queues: u32, mtu: u32) -> Self {
        let pollers = config.pollers();
        let each = uplink_queues.div_ceil(pollers);
        if config.offload == Offload::Kernel {
            return Self::plan_offloaded(config, pollers, each, mtu);
        }
        Self::plan(&config.frames, config.max_pods, pollers, each, mtu)
    }

    /// Whether packets of this MTU fit frames of this size.
    pub const fn fits(mtu: u32, frame_size: u32) -> bool {
        KERNEL_HEADROOM + LINK_OVERHEAD + mtu <= frame_size
    }

    /// Bytes that the kernel takes beside, when all pods are there: each queue with a socket has its own list of all frames.
    pub const fn kernel_bytes(&self) -> u64 {
        KERNEL_PER_FRAME * self.per_poller as u64 * self.pollers as u64 * self.sockets as u64
    }

    /// Bytes that the kernel takes for flows that it carries itself.
    pub const fn flow_bytes(&self) -> u64 {
        if self.offloaded {
            offload::MAP_BYTES
        } else {
            0
        }
    }

    /// Bytes of memory, all pollers together.
    pub const fn bytes(&self) -> u64 {
        self.frame_size as u64 * self.per_poller as u64 * self.pollers as u64
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} MiB at most for packets: {} of {} frames of {} bytes, enough for {}",
            self.bytes() >> 20,
            counted(self.pollers.into(), "poller"),
            self.per_poller,
            self.frame_size,
            counted(self.max_pods.into(), "pod"),
        )?;
        if !self.offloaded {
            write!(
                f,
                " ({} frames each to receive, {} more for busy ones)",
                self.pod_ring, self.extra
            )?;
        }
        write!(
            f,
            " and uplink queues of {}; the kernel takes {} MiB beside for each pod, {} MiB for all",
            self.uplink_ring,
            (self.kernel_bytes() / u64::from(self.sockets.max(1)) * u64::from(self.pollers)) >> 20,
            self.kernel_bytes() >> 20,
        )?;
        if self.offloaded {
            write!(f, ", {} MiB for flows", self.flow_bytes() >> 20)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_frames_unless_an_mtu_needs_large_ones() {
        let plan = |mtu| Budget::plan(&Frames::default(), 250, 1, 1, mtu).frame_size;
        assert_eq!(plan(1500), 2048);
        assert_eq!(plan(1774), 2048);
        assert_eq!(plan(1775), 4096);
    }

    #[test]
    fn two_hundred_and_fifty_pods_fill_their_rings_and_frames_are_left() {
        let plan = Budget::plan(&Frames::default(), 250, 1, 1, 1500);
        assert!(plan.per_poller > 250 * plan.pod_ring + 2 * plan.uplink_ring);
        assert!(plan.bytes() < 200 << 20, "{plan}");
    }

    #[test]
    fn one_poller_and_one_pod_in_words() {
        let said =
            |pods, pollers| Budget::plan(&Frames::default(), pods, pollers, 1, 1500).to_string();
        let (one, many) = (said(1, 1), said(250, 2));
        assert!(one.contains(": 1 poller of "), "{one}");
        assert!(one.contains("enough for 1 pod ("), "{one}");
        assert!(many.contains(": 2 pollers of "), "{many}");
        assert!(many.contains("enough for 250 pods ("), "{many}");
    }

    #[test]
    fn offloaded_pods_need_no_frames_of_their_own() {
        let mut config = DaemonConfig::default();
        let plain = Budget::of(&config, 1, 1500);
        config.offload = Offload::Kernel;
        let plan = Budget::of(&config, 1, 1500);
        let rings = offload::queues(&config) * offload::ring(&config) + config.frames.uplink_ring;
        assert!(plan.per_poller > rings && plan.per_poller < plain.per_poller);
        let said = plan.to_string();
        assert!(said.contains("enough for 250 pods and uplink"), "{said}");
        assert!(said.ends_with(" for all, 86 MiB for flows"), "{said}");
        assert_eq!(plain.flow_bytes(), 0);
    }

    #[test]
    fn what_the_kernel_takes_grows_with_frames_and_pods() {
        let frames = Frames {
            total: Some(10_000),
            ..Frames::default()
        };
        let plan = Budget::plan(&frames, 10, 2, 1, 1500);
        assert_eq!(plan.sockets, 24);
        assert_eq!(plan.kernel_bytes(), 128 * 10_000 * 24);
    }

    #[test]
    fn a_given_total_is_shared_by_the_pollers() {
        let frames = Frames {
            total: Some(10_000),
            ..Frames::default()
        };
        assert_eq!(Budget::plan(&frames, 250, 4, 1, 1500).per_poller, 2500);
    }
}
