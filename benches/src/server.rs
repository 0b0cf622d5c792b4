//! Runs a Kamailio and reads what it costs.

use crate::Fallible;
use crate::callgrind::Callgrind;
use crate::processes;
use crate::setup::Setup;
use presence_kamailio_tests::kamailio::{Port, eventually};
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Shared memory, in bytes, and the pieces that the free part is in.
#[derive(Clone, Copy, Debug)]
pub struct SharedMemory {
    /// Handed out.
    pub used: u64,
    /// With the allocator's own overhead.
    pub real_used: u64,
    /// Free fragments.
    pub fragments: u64,
}

/// A running Kamailio. Killed when dropped.
pub struct Server {
    /// What it was started with.
    pub setup: Setup,
    /// Its folder: configuration, log.
    pub folder: PathBuf,
    /// From the start to the first answer.
    pub start_time: Duration,
    /// For sockets, whose paths must be short.
    sockets: tempfile::TempDir,
    port: Port,
    child: Option<Child>,
    /// `(process, description)`
    processes: Vec<(i32, String)>,
}

impl Server {
    /// Starts it with its files in `folder`, and waits until it answers.
    pub fn start(setup: Setup, folder: &Path) -> Fallible<Self> {
        std::fs::create_dir_all(folder)
            .map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
        let mut server = Self {
            setup,
            folder: folder.to_owned(),
            start_time: Duration::ZERO,
            sockets: tempfile::Builder::new()
                .prefix("presence-bench-")
                .tempdir()
                .map_err(|error| format!("cannot create a temporary folder: {error}"))?,
            port: Port::reserve(),
            child: None,
            processes: Vec::new(),
        };
        server.launch()?;
        Ok(server)
    }

    /// Starts the process, again if it was stopped; on the same port.
    pub fn launch(&mut self) -> Fallible<()> {
        let config = self.folder.join("kamailio.cfg");
        std::fs::write(&config, self.setup.text(self.sockets.path(), self.port.number))
            .map_err(|error| format!("cannot write {}: {error}", config.display()))?;
        let log = File::options().create(true).append(true).open(self.folder.join("kamailio.log"));
        let log = log.map_err(|error| format!("cannot open kamailio.log: {error}"))?;
        let log_too = log.try_clone().map_err(|error| format!("kamailio.log: {error}"))?;
        let mut command = if self.setup.callgrind {
            Callgrind::command(&self.folder)
        } else {
            Command::new("kamailio")
        };
        command.args(["-DD", "-E", "-f"]).arg(&config);
        command.args(["-m", &self.setup.shared.to_string(), "-M", &self.setup.private.to_string()]);
        command.arg("-Y").arg(self.sockets.path()).arg("-w").arg(&self.folder);
        command.arg("-P").arg(self.folder.join("kamailio.pid"));
        command.stdin(Stdio::null()).stdout(log).stderr(log_too).process_group(0);
        // SAFETY: prctl is async-signal-safe; when this program is gone,
        // Kamailio is told to end.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
        let begin = Instant::now();
        let child = command.spawn().map_err(|error| format!("cannot run kamailio: {error}"))?;
        self.child = Some(child);
        let limit = Duration::from_secs(if self.setup.callgrind { 120 } else { 60 });
        let mut ended = false;
        let ready = eventually(limit, || {
            let child = self.child.as_mut()?;
            ended = !matches!(child.try_wait(), Ok(None));
            (ended || self.command(&["core.psx"]).is_ok()).then_some(())
        });
        self.start_time = begin.elapsed();
        if ready.is_none() || ended {
            let tail = self.log_tail();
            self.kill();
            return Err(format!("Kamailio did not start; its log ends:\n{tail}"));
        }
        self.processes = self.list_processes()?;
        Ok(())
    }

    fn list_processes(&self) -> Fallible<Vec<(i32, String)>> {
        let text = self.command(&["core.psx"])?;
        let mut list = Vec::new();
        let mut process = 0;
        for line in text.lines() {
            if let Some(number) = line.trim().strip_prefix("PID: ") {
                process = number.trim().parse().unwrap_or(0);
            } else if let Some(name) = line.trim().strip_prefix("DSC: ") {
                list.push((process, name.trim().to_owned()));
            }
        }
        // What the list leaves out, such as helpers without an entry.
        let leader = self.child.as_ref().map_or(0, |child| child.id() as i32);
        for member in processes::group(leader) {
            if !list.iter().any(|(process, _)| *process == member) {
                list.push((member, "other".to_owned()));
            }
        }
        Ok(list)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port.number))
    }

    /// CPU of all its processes.
    pub fn cpu(&self) -> Duration {
        let all: Vec<i32> = self.processes.iter().map(|(process, _)| *process).collect();
        processes::cpu(&all)
    }

    /// The counters of instructions, when it was started with them.
    pub fn callgrind(&self) -> Callgrind {
        Callgrind::new(&self.folder, &self.processes)
    }

    /// Runs a command by kamcmd.
    pub fn command(&self, arguments: &[&str]) -> Fallible<String> {
        let output = Command::new("kamcmd")
            .arg("-s")
            .arg(format!("unix:{}", self.sockets.path().join("ctl.sock").display()))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("cannot run kamcmd: {error}"))?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() && !stdout.starts_with("error:") {
            Ok(stdout)
        } else {
            Err(format!(
                "kamcmd {arguments:?}: {stdout}{}",
                String::from_utf8_lossy(&output.stderr)
            ))
        }
    }

    /// Shared memory now.
    pub fn shared_memory(&self) -> Fallible<SharedMemory> {
        let text = self.command(&["core.shmmem"])?;
        // Kamailio prints 32 bits with a sign: 3 GB are a negative number.
        let value = |name: &str| {
            text.lines()
                .find_map(|line| line.trim().strip_prefix(name)?.trim().parse::<i64>().ok())
                .map(|number| u64::from(number as u32))
                .ok_or_else(|| format!("no {name} in core.shmmem: {text}"))
        };
        Ok(SharedMemory {
            used: value("used: ")?,
            real_used: value("real_used: ")?,
            fragments: value("fragments: ")?,
        })
    }

    /// How many lines of its log contain `part`.
    pub fn log_count(&self, part: &str) -> usize {
        let log = std::fs::read(self.folder.join("kamailio.log")).unwrap_or_default();
        memchr::memmem::find_iter(&log, part).count()
    }

    fn log_tail(&self) -> String {
        let log = std::fs::read(self.folder.join("kamailio.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// SIGTERM; how long it took to end. `None` when it had to be killed.
    pub fn stop(&mut self, limit: Duration) -> Option<Duration> {
        let child = self.child.as_mut()?;
        let begin = Instant::now();
        // SAFETY: no memory effects; our own child, not waited for yet.
        unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
        let ended = eventually(limit, || child.try_wait().ok().flatten()).map(|_| begin.elapsed());
        self.kill();
        ended
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // SAFETY: as above; it leads a process group of its own.
            unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
            let _ = child.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
