//! What must hold of the daemon wherever packets are moved, once more with established flows in the kernel.
#![expect(
    dead_code,
    reason = "the other tests use the rest of what these stand on"
)]

#[path = "../daemon/crash.rs"]
mod crash;
#[path = "../daemon/flows.rs"]
mod flows;
#[path = "../daemon/host.rs"]
mod host;
#[path = "../daemon/keep.rs"]
mod keep;
#[path = "../daemon/lab.rs"]
mod lab;
#[path = "../daemon/packet.rs"]
mod packet;
#[path = "../daemon/pods.rs"]
mod pods;
#[path = "../daemon/process.rs"]
mod process;
#[path = "../daemon/services.rs"]
mod services;
#[path = "../daemon/spray.rs"]
mod spray;
#[path = "../daemon/stderr.rs"]
mod stderr;
#[path = "../daemon/traffic.rs"]
mod traffic;
#[path = "../daemon/two_pollers.rs"]
mod two_pollers;

/// What all labs have in `caracal.yaml` beside their own.
const SETTINGS: &str = "offload: kernel\n";
