//! A Felix: it starts the driver with two pipes, as Calico's does, and speaks.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use control::felix::proto::{FromDataplane, FromPayload, Payload};
use prost::Message as _;

use crate::felix_encoder as encoder;
use crate::process::PATIENCE;

/// A Felix and its driver. Killed when dropped.
pub(crate) struct Felix {
    driver: Child,
    /// The pipe to the driver; none when Felix is gone.
    pipe: Option<ChildStdin>,
    next: u64,
    heard: Arc<Mutex<Vec<FromPayload>>>,
    said: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Felix {
    /// Starts the driver `plugin`, with its pipes as descriptors 3 and 4.
    pub(crate) fn start(plugin: &Path, socket: &Path) -> Self {
        let mut driver = Command::new("sh")
            .args(["-c", "exec 3<&0 4>&1 </dev/null >&2; exec \"$0\""])
            .arg(plugin)
            .env("CARACAL_FELIX_SOCKET", socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the driver");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let said = Arc::new(Mutex::new(String::new()));
        let stdout = driver.stdout.take().expect("piped");
        let from_driver = File::from(OwnedFd::from(stdout));
        let stderr = BufReader::new(driver.stderr.take().expect("piped"));
        let (hear, words) = (Arc::clone(&heard), Arc::clone(&said));
        let readers = vec![
            thread::spawn(move || listen(from_driver, &hear)),
            thread::spawn(move || {
                for line in stderr.lines().map_while(Result::ok) {
                    let mut said = words.lock().expect("words");
                    said.push_str(&line);
                    said.push('\n');
                }
            }),
        ];
        Self {
            pipe: driver.stdin.take(),
            driver,
            next: 0,
            heard,
            said,
            readers,
        }
    }

    /// Says something to the dataplane.
    pub(crate) fn say(&mut self, payloads: &[Payload]) {
        let mut bytes = Vec::new();
        for payload in payloads {
            bytes.extend(encoder::on_the_wire(self.next, payload.clone()));
            self.next += 1;
        }
        self.say_bytes(&bytes);
    }

    /// Says something that need not be a message.
    pub(crate) fn say_bytes(&mut self, bytes: &[u8]) {
        let pipe = self.pipe.as_mut().expect("Felix is there");
        pipe.write_all(bytes).expect("write to the driver");
    }

    /// What the dataplane has said.
    pub(crate) fn heard(&self) -> Vec<FromPayload> {
        self.heard.lock().expect("heard").clone()
    }

    /// Felix ends. How its driver does.
    pub(crate) fn end(mut self) -> ExitStatus {
        self.pipe = None;
        self.wait().0
    }

    /// Waits for the driver's end; what it said on standard error.
    pub(crate) fn wait(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.driver.try_wait().expect("wait") {
                break status;
            }
            assert!(Instant::now() < deadline, "the driver does not end");
            thread::sleep(Duration::from_millis(10));
        };
        for reader in self.readers.drain(..) {
            reader.join().expect("reader");
        }
        let said = self.said.lock().expect("words").clone();
        (status, said)
    }
}

impl Drop for Felix {
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

fn listen(mut pipe: File, heard: &Mutex<Vec<FromPayload>>) {
    let mut length = [0; 8];
    let mut next = 0;
    while pipe.read_exact(&mut length).is_ok() {
        let mut bytes = vec![0; u64::from_le_bytes(length) as usize];
        if pipe.read_exact(&mut bytes).is_err() {
            return;
        }
        let message = FromDataplane::decode(&*bytes).expect("a message");
        assert_eq!(message.sequence_number, next);
        next += 1;
        heard.lock().expect("heard").extend(message.payload);
    }
}
