//! A server in a process of its own, which can be killed and started again on the same port and
//! data.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::Instant;

/// A server's process, and how it is started.
pub struct Process {
    data: PathBuf,
    args: String,
    port: Mutex<Option<u16>>,
    child: Mutex<Option<Child>>,
}

impl Process {
    /// A server that is not started yet.
    pub fn new(data: &Path, args: &str) -> Self {
        Self { data: data.to_owned(), args: args.into(), port: Mutex::default(), child: Mutex::default() }
    }

    fn command(&self) -> Command {
        let port = self.port.lock().unwrap().unwrap_or(0);
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringlog-server"));
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        command
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .args(self.args.split_whitespace())
            .args(if self.args.contains("--memory") {
                vec![]
            } else {
                vec!["--data".into(), self.data.clone()]
            })
            .stdin(Stdio::null())
            .stderr(log);
        command
    }

    /// Where its log goes.
    fn log(&self) -> PathBuf {
        self.data.with_extension("log")
    }

    /// Starts it; true once it can be used, false if it ended before.
    pub fn start(&self) -> bool {
        self.start_with(&[])
    }

    /// Starts it with variables in its environment; true once it can be used, false if it ended
    /// before.
    pub fn start_with(&self, variables: &[(&str, &str)]) -> bool {
        self.listen_with(variables) && self.is_ready()
    }

    /// Starts it where so many files may be open; true once it can be used.
    pub fn start_with_files(&self, files: u32) -> bool {
        let mut command = Command::new("sh");
        command.args(["-c", &format!(r#"ulimit -n {files}; exec "$@""#), "sh"]);
        let server = self.command();
        command.arg(server.get_program()).args(server.get_args()).stdin(Stdio::null());
        command.stderr(File::options().create(true).append(true).open(self.log()).unwrap());
        self.listen_by(command) && self.is_ready()
    }

    /// Waits until `/readyz` says that it can be used. False if it ends.
    fn is_ready(&self) -> bool {
        let port = self.port.lock().unwrap().unwrap();
        let start = Instant::now();
        while !asked(port).is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            if self.has_ended() {
                return false;
            }
            assert!(start.elapsed() < super::HANG, "it does not become ready: {}", self.said());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        true
    }

    /// Starts it; true if it listens, whether it can be used or not, false if it ended before.
    pub fn listen_with(&self, variables: &[(&str, &str)]) -> bool {
        let mut command = self.command();
        command.envs(variables.iter().copied());
        self.listen_by(command)
    }

    fn listen_by(&self, mut command: Command) -> bool {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let line = first_line(child.stdout.take().unwrap()).unwrap_or_else(|| {
            child.kill().unwrap();
            panic!("it neither listens nor ends: {}", self.said())
        });
        let Some(url) = line.trim_end().strip_prefix("listening on http://") else {
            assert_eq!(line, "", "the first line says where it listens");
            child.wait().unwrap();
            return false;
        };
        *self.port.lock().unwrap() = Some(url.rsplit_once(':').unwrap().1.parse().unwrap());
        *self.child.lock().unwrap() = Some(child);
        true
    }

    /// Where it listens, or did last.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.lock().unwrap().expect("it was started"))
    }

    /// The number of its process.
    pub fn id(&self) -> u32 {
        self.child.lock().unwrap().as_ref().expect("it was started").id()
    }

    /// Ends it on the spot, as `kill -9`.
    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&self) -> bool {
        let mut child = self.child.lock().unwrap();
        child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    /// Asks it to stop, and waits until it has. True if it says that all went well.
    #[cfg(unix)]
    pub fn stop(&self) -> bool {
        if self.child.lock().unwrap().is_none() {
            return false;
        }
        self.signal("TERM");
        self.ended().success()
    }

    /// Sends it a signal: `TERM`.
    #[cfg(unix)]
    pub fn signal(&self, name: &str) {
        let id = self.child.lock().unwrap().as_ref().expect("it runs").id();
        let sent = Command::new("kill").args(["-s", name, &id.to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits until it has ended by itself.
    pub fn ended(&self) -> ExitStatus {
        let mut child = self.child.lock().unwrap().take().expect("it runs");
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if start.elapsed() > super::HANG {
                child.kill().unwrap();
                panic!("it does not end: {}", self.said());
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// What it said on standard error, all lifetimes.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }
}

/// What `/readyz` answers.
fn asked(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(super::HANG)).unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// The first line, empty at the end of the output. None if nothing comes for too long.
fn first_line(output: ChildStdout) -> Option<String> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).unwrap();
        let _ = tell.send(line);
    });
    told.recv_timeout(super::HANG).ok()
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
