//! A process to kill: the test binary again, in the same namespaces, playing one role.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

const ROLE: &str = "CARACAL_TEST_ROLE";
const SAYS: &str = "child says: ";

/// A running child. Killed when dropped.
pub struct Role {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Role {
    /// Starts `role`; the binary must have a test named `child` that plays it.
    pub fn start(role: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "child", "--nocapture"])
            .env(ROLE, role)
            .stdout(Stdio::piped())
            .spawn()
            .expect("child");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, output }
    }

    /// Waits for what the child [`say`]s next.
    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        while self.output.read_line(&mut line).expect("output") > 0 {
            // The test harness may not have ended its own line.
            if let Some((_, said)) = line.trim_end().split_once(SAYS) {
                return said.to_owned();
            }
            line.clear();
        }
        panic!("the child ended without a word");
    }

    /// Ends the child by SIGKILL, and waits until it is gone.
    pub fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // Gone already, when all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The role that this process was started to play.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Tells the parent.
pub fn say(text: &str) {
    println!("{SAYS}{text}");
}

/// Waits to be killed, for a minute at most.
pub fn wait_to_be_killed() {
    std::thread::sleep(std::time::Duration::from_mins(1));
}
