//! Felix's protocol against the files' source, and the fold over its messages.

mod differential;
#[path = "../felix_encoder/mod.rs"]
mod felix_encoder;
mod fold;
mod refused;
mod restrict;
mod ways;

use std::sync::Arc;

use control::config::HostEndpoints;
use control::felix::frame::Frames;
use control::felix::proto::Payload;
use control::felix::{Calculated, State, Surroundings};
use control::policy::Model;

/// A state to which all this was said, over the wire, and that it is all.
fn told(node: &str, payloads: impl IntoIterator<Item = Payload>) -> State {
    let (mut state, mut frames) = (State::new(node), Frames::default());
    let all = payloads.into_iter().chain([felix_encoder::in_sync()]);
    for (number, payload) in (0..).zip(all) {
        frames.push(&felix_encoder::on_the_wire(number, payload));
        let message = frames.take().expect("a message").expect("all of it");
        assert_eq!(message.sequence_number, number);
        state.take(message);
    }
    assert!(state.is_in_sync());
    state
}

/// What follows from a state.
fn calculated(state: &State) -> Result<Calculated, String> {
    state.desired(&Surroundings {
        taken: &["eth0"],
        host_endpoints: HostEndpoints::ForwardedOnly,
        before: &Arc::new(Model::default()),
    })
}
