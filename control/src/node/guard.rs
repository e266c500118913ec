//! What others may have done to our XDP programs.

use std::time::{Duration, Instant};

use super::ports::Served;
use super::{Node, offload};

/// Attachments are looked at this often: one that is gone is back within a second.
const PERIOD: Duration = Duration::from_millis(500);

/// What follows where there are no pins.
pub(super) const OPEN_AT_END: &str =
    "pods will be open, without policy, after a stop or a crash: they can not be pinned";

impl Node {
    /// Attaches again what somebody detached, if it is time to look.
    pub(super) fn guard(&mut self, now: Instant) {
        if self.guard_at > now {
            return;
        }
        self.guard_at = now + PERIOD;
        self.guard_punt();
        self.guard_order();
        let mirror = &self.mirror;
        let dead: Vec<_> = self
            .served
            .iter()
            .filter(|(name, served)| {
                // A device that is gone, too, is the links' concern.
                let link = mirror.link_by_name(name);
                link.is_some_and(|link| link.ifindex == served.ifindex) && !served.is_alive()
            })
            .map(|(name, _)| name.clone())
            .collect();
        let closed_are_alive = self
            .closed
            .values()
            .all(crate::xdp::EndpointAttachment::is_alive);
        self.guard_pins();
        if dead.is_empty() && closed_are_alive {
            return;
        }
        let mut anew = !closed_are_alive;
        for name in dead {
            tracing::warn!(
                interface = name,
                "somebody detached our program; attaching it again"
            );
            let Some(served) = self.served.get_mut(&name) else {
                continue;
            };
            let again = match &mut self.offload {
                Some(offload) => offload.attach_again(served, &name),
                None => served.attach_again(),
            };
            match again {
                Ok(true) => tracing::info!(interface = name, "attached again"),
                // Anew with everything, or the reason why not.
                Ok(false) | Err(_) => anew = true,
            }
        }
        if anew {
            self.reconcile_ports();
        }
    }

    /// Puts back the pins that somebody removed.
    fn guard_pins(&mut self) {
        let served = self.served.values().filter_map(Served::endpoint);
        let all = served.chain(self.closed.values());
        let (mut put_back, mut error) = (0, None);
        for attachment in all.filter(|it| it.is_alive()) {
            match attachment.ensure_pinned(&self.pins) {
                Ok(was_gone) => put_back += u32::from(was_gone),
                Err(refused) => error = Some(refused.to_string()),
            }
        }
        if put_back > 0 {
            tracing::warn!(
                pins = put_back,
                "somebody removed pins in bpffs, which keep pods closed without a daemon; they are put back"
            );
        }
        if let Some(error) = error.as_ref().filter(|_| error != self.pins_error) {
            tracing::error!("{OPEN_AT_END}: {error}");
        }
        self.pins_error = error;
    }

    /// Opens devices that an earlier daemon had closed and that are none of ours: no endpoint names them, and they are not
    /// called as pods' interfaces are.
    pub(super) fn release_strangers(&mut self) {
        let wanted = self.wanted();
        let prefixes = &self.compiler.desired().felix.interface_prefixes;
        for pin in self.pins.pins() {
            let Some(link) = self.mirror.link(pin.ifindex).filter(|_| pin.alive) else {
                continue;
            };
            let ours = wanted.contains_key(&link.name)
                || !offload::is_pod(&link.name)
                || prefixes.iter().any(|prefix| link.name.starts_with(prefix));
            if ours {
                continue;
            }
            match self.pins.release(&pin) {
                Ok(()) => tracing::info!(
                    interface = link.name,
                    "opened: it is no pod's interface any more"
                ),
                Err(error) => {
                    tracing::warn!(%error, interface = link.name, "stays closed, though it is no pod's interface");
                }
            }
        }
    }
}
