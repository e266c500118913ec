//! The daemon as a process in a network namespace: real veths, real stacks, real packets.

#[cfg(feature = "kubernetes")]
#[path = "../kubernetes/api_server.rs"]
#[expect(dead_code, reason = "the tests of the thread alone use the rest")]
mod api_server;
mod bad_input;
mod bond;
mod capture;
mod crash;
mod debian_kernel;
mod diff;
mod felix;
#[path = "../felix_encoder/mod.rs"]
mod felix_encoder;
mod felix_process;
mod flows;
mod host;
mod host_endpoints;
mod host_policy;
mod keep;
mod keep_bad_luck;
mod kernel_state;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod lab;
mod legs;
mod observe;
mod offload;
mod packet;
mod perf;
mod pods;
mod process;
mod reload;
mod scale;
mod services;
mod spray;
mod stderr;
mod telemetry;
mod top;
mod traffic;
mod two_pollers;
#[path = "../virtual_machine/mod.rs"]
mod virtual_machine;

/// What all labs have in `caracal.yaml` beside their own.
const SETTINGS: &str = "";
