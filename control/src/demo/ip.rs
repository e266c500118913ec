//! The lab is built by the `ip` command (batch mode) and by writes to /proc/sys, as a user would do it by hand;
//! `-v` prints every line.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use super::error::{DemoError, Result};
use super::netns;
use super::progress::tell;

/// Runs commands, and shows them when asked to.
#[derive(Clone, Copy, Debug)]
pub struct Shell {
    /// Print each command to stderr before it runs.
    pub verbose: bool,
}

impl Shell {
    /// Runs lines of `ip` in order, in `netns` or, without it, in our own namespace; stops at the first that fails.
    ///
    /// # Errors
    /// The line that failed and what `ip` said.
    pub fn ip(self, netns: Option<&str>, lines: &[String]) -> Result<()> {
        self.batch("ip", netns, lines)
    }

    /// Runs lines of `bridge` in order in `netns`.
    ///
    /// # Errors
    /// The line that failed and what `bridge` said.
    pub fn bridge(self, netns: &str, lines: &[String]) -> Result<()> {
        self.batch("bridge", Some(netns), lines)
    }

    fn batch(self, program: &str, netns: Option<&str>, lines: &[String]) -> Result<()> {
        let mut command = Command::new(program);
        if let Some(name) = netns {
            command.args(["-n", name]);
        }
        if self.verbose {
            for line in lines {
                let place = netns.map(|name| format!(" -n {name}")).unwrap_or_default();
                tell(&format!("  {program}{place} {line}"));
            }
        }
        let failed = |output: String| DemoError::Command {
            command: explain(program, netns, lines, &output),
            output,
        };
        let mut child = command
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that ended early says why on stderr; the broken pipe adds nothing.
            let _ = stdin.write_all((lines.join("\n") + "\n").as_bytes());
        }
        let output = child
            .wait_with_output()
            .map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        Err(failed(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ))
    }

    /// What `ip ARGS` prints in `netns`.
    ///
    /// # Errors
    /// The command and what it said on stderr.
    pub fn ip_output(self, netns: &str, args: &[&str]) -> Result<String> {
        let line = format!("ip -n {netns} {}", args.join(" "));
        if self.verbose {
            tell(&format!("  {line}"));
        }
        let failed = |output: String| DemoError::Command {
            command: line.clone(),
            output,
        };
        let output = Command::new("ip")
            .args(["-n", netns])
            .args(args)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(failed(text));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Sets network sysctls (name under `net`, with slashes; value) in `netns`.
    ///
    /// # Errors
    /// The first that could not be set.
    pub fn sysctl(self, netns: &str, settings: &[(String, &str)]) -> Result<()> {
        if self.verbose {
            let settings: Vec<String> = settings
                .iter()
                .map(|(name, value)| format!("net.{}='{value}'", name.replace('/', ".")))
                .collect();
            let settings = settings.join(" ");
            tell(&format!("  ip netns exec {netns} sysctl -w {settings}"));
        }
        netns::within(netns, || {
            for (name, value) in settings {
                // /proc/sys/net shows the namespace of the thread that opens it.
                fs::write(format!("/proc/sys/net/{name}"), value)
                    .map_err(DemoError::io(format!("{netns}: sysctl net/{name}={value}")))?;
            }
            Ok(())
        })?
    }
}

/// The line that a batch failed at ("Command failed -:3"), as a command line.
fn explain(program: &str, netns: Option<&str>, lines: &[String], output: &str) -> String {
    let number = output
        .rsplit_once("-:")
        .and_then(|(_, tail)| tail.trim().parse::<usize>().ok());
    let line = number
        .and_then(|n| n.checked_sub(1))
        .and_then(|n| lines.get(n))
        .map_or("-batch -", String::as_str);
    match netns {
        Some(name) => format!("{program} -n {name} {line}"),
        None => format!("{program} {line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_batch_names_its_line() {
        let lines = ["link set lo up".to_owned(), "link add x".to_owned()];
        let output = "RTNETLINK answers: Operation not supported\nCommand failed -:2";
        assert_eq!(
            explain("ip", Some("ns"), &lines, output),
            "ip -n ns link add x"
        );
        assert_eq!(explain("ip", None, &lines, "?"), "ip -batch -");
    }
}
