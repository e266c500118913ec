//! Clients and servers with ordinary sockets: what applications in the pods would see. Nothing here knows Caracal.
//!
//! A socket belongs to the namespace it was made in; afterwards any thread may use it.

pub mod flood;
pub mod icmp;
pub mod neighbour;
pub mod ping;
pub mod pipe;
pub mod tcp;
pub mod udp;

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};

use super::cancel::Cancel;

/// After as many tries each of two servers has answered, unless one never will: else they all fell to the other.
const MANY: u32 = 48;

/// Where a conversation runs.
#[derive(Clone, Debug)]
pub struct Route {
    /// Namespace of the client.
    pub from: String,
    /// Namespace of the server.
    pub to: String,
    /// Address of the server.
    pub address: IpAddr,
}

/// Servers behind one address that none of them has: a service's.
#[derive(Clone, Debug)]
pub struct Servers {
    /// Where clients send.
    pub address: SocketAddr,
    /// Namespace of each, and where it listens there.
    pub each: Vec<(String, SocketAddr)>,
}

impl Servers {
    /// Tries until each of them has answered; returns how many they are. A try says which did.
    ///
    /// # Errors
    /// What failed in a try, or which server never answered.
    pub fn until_all(
        &self,
        mut attempt: impl FnMut() -> Result<Vec<IpAddr>, Failure>,
    ) -> Result<u32, Failure> {
        let mut missing: BTreeSet<IpAddr> = self.each.iter().map(|(_, at)| at.ip()).collect();
        let count = missing.len() as u32;
        for _ in 0..MANY {
            for answered in attempt()? {
                missing.remove(&answered);
            }
            if missing.is_empty() {
                return Ok(count);
            }
        }
        Err(format!("{missing:?} never answered, in {MANY} times"))
    }
}

/// Why a conversation failed, in words for the user.
pub type Failure = String;

/// True for the error of a read or write that timed out, to be tried again.
fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

/// An error once the user wants to stop.
pub(super) fn check(cancel: &Cancel) -> Result<(), Failure> {
    cancel.check().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_never_answers_is_named() {
        let [one, two] = ["10.0.0.1:80", "10.0.0.2:80"].map(|it| it.parse::<SocketAddr>().unwrap());
        let servers = Servers {
            address: one,
            each: vec![(String::new(), one), (String::new(), two)],
        };
        let mut answers = [one, one, two].into_iter();
        let count = servers.until_all(|| Ok(vec![answers.next().unwrap().ip()]));
        assert_eq!((count, answers.next()), (Ok(2), None));
        let error = servers.until_all(|| Ok(vec![one.ip()])).unwrap_err();
        assert_eq!(error, "{10.0.0.2} never answered, in 48 times");
    }
}
