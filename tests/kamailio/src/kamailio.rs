//! Runs a real Kamailio for one test.

use crate::config::{Config, Storage};
use crate::database::{Database, Row};
use crate::limit;
use crate::target::{Target, target};
use crate::trace::Trace;
use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a Kamailio may take to be ready.
const READY: Duration = Duration::from_secs(10);
/// How long a Kamailio may take to end after SIGTERM.
const STOP: Duration = Duration::from_secs(8);
/// How long a log line may take to appear.
const LOG_TIMEOUT: Duration = Duration::from_secs(5);
/// How many lines of the log are printed when a test fails.
const LOG_TAIL: usize = 80;

/// Waits until `condition` gives a value; `None` after `timeout`.
pub fn eventually<T>(timeout: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + timeout;
    loop {
        limit::check();
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A port of ours until it is dropped: free on UDP and TCP, outside the range
/// that the system hands out, and locked against other tests by a file.
pub struct Port {
    /// The number.
    pub number: u16,
    _lock: File,
}

impl Port {
    /// Reserves a port.
    pub fn reserve() -> Self {
        let folder = std::env::temp_dir().join("presence-test-ports");
        std::fs::create_dir_all(&folder)
            .unwrap_or_else(|error| panic!("cannot create {}: {error}", folder.display()));
        let first = std::process::id() as u16 % 9000;
        for step in 0..9000 {
            let number = 21000 + (first.wrapping_add(step)) % 9000;
            let Ok(lock) = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(folder.join(number.to_string()))
            else {
                continue;
            };
            // SAFETY: flock on a descriptor that is open for the whole call.
            let locked = unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
            if locked != 0
                || UdpSocket::bind(("127.0.0.1", number)).is_err()
                || TcpListener::bind(("127.0.0.1", number)).is_err()
            {
                continue;
            }
            return Self { number, _lock: lock };
        }
        panic!("no free port on 127.0.0.1 between 21000 and 30000");
    }
}

/// A running Kamailio with its own folder, port and (if any) database.
///
/// On drop it is ended (only the process group that was started here). When the
/// test is panicking, the tail of the log and of the SIP trace are printed and
/// the folder is kept.
pub struct Kamailio {
    folder: RefCell<Option<tempfile::TempDir>>,
    path: PathBuf,
    port: Port,
    database: Option<Database>,
    config: Config,
    module: Cell<Target>,
    process: RefCell<Option<Child>>,
    trace: Trace,
    reported: Cell<bool>,
    checked: Cell<bool>,
}

impl Kamailio {
    /// Starts a Kamailio and waits until it answers; panics with its log if it does not.
    pub fn start(config: Config) -> Self {
        Self::try_start(config).unwrap_or_else(|log| panic!("Kamailio did not start:\n{log}"))
    }

    /// Starts a Kamailio; gives its log when it ends before it is ready
    /// (a configuration that is refused).
    pub fn try_start(config: Config) -> Result<Self, String> {
        // With one thread for all tests each begins with its Kamailio.
        if std::thread::current().name() == Some("main") {
            limit::begin();
        }
        let folder = tempfile::Builder::new()
            .prefix("presence-test-")
            .tempdir()
            .unwrap_or_else(|error| panic!("cannot create a temporary folder: {error}"));
        let path = folder.path().to_owned();
        let database = config.storage.has_database().then(|| {
            let prepared = config.database.clone();
            prepared.unwrap_or_else(|| Database::create_in(config.storage.driver(), &path))
        });
        let kamailio = Self {
            folder: RefCell::new(Some(folder)),
            path,
            port: Port::reserve(),
            database,
            module: Cell::new(config.module),
            config,
            process: RefCell::new(None),
            trace: Trace::new(),
            reported: Cell::new(false),
            checked: Cell::new(false),
        };
        kamailio.launch()?;
        Ok(kamailio)
    }

    /// Starts the process again in the same folder, with the same database and port.
    pub fn start_again(&self) {
        if let Err(log) = self.launch() {
            self.fail(&format!("Kamailio did not start again:\n{log}"));
        }
    }

    /// [`Kamailio::start_again`] with this module.
    pub fn start_again_with(&self, module: Target) {
        self.module.set(module);
        self.start_again();
    }

    /// Waits until all processes have initialised themselves and none is added
    /// any more: requests are served before that.
    pub fn wait_all_processes(&self) {
        let mut before = String::new();
        let settled = eventually(READY, || {
            std::thread::sleep(Duration::from_millis(100));
            let list = self.rpc(&["core.psa"]).unwrap_or_default();
            let ready = list
                .lines()
                .filter_map(|line| line.trim().strip_prefix("status:"))
                .skip(1) // of the main process
                .all(|status| status.trim() == "1");
            let same = std::mem::replace(&mut before, list) == before;
            (ready && same).then_some(())
        });
        if settled.is_none() {
            self.fail(&format!("not all processes are initialised: {before}"));
        }
    }

    /// [`Kamailio::stop_cleanly`] and [`Kamailio::start_again`].
    pub fn restart(&self) {
        let status = self.stop_cleanly();
        if !status.success() {
            self.fail(&format!("Kamailio ended with {status} before the restart"));
        }
        self.start_again();
    }

    fn launch(&self) -> Result<(), String> {
        let config_file = self.path.join("kamailio.cfg");
        let config = self.config.clone().with_module(self.module.get());
        let text = config.text(&self.path, self.port.number, self.database.as_ref());
        std::fs::write(&config_file, text)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", config_file.display()));
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())
            .unwrap_or_else(|error| panic!("cannot open the log file: {error}"));
        let log_too = log.try_clone().unwrap_or_else(|error| panic!("log file: {error}"));
        let before = self.log().len();
        let mut command = Command::new("kamailio");
        command
            .args(["-DD", "-E", "-f"])
            .arg(&config_file)
            .args(["-m", &self.config.shared_megabytes.to_string()])
            .args(["-M", &self.config.private_megabytes.to_string()])
            .arg("-Y")
            .arg(&self.path)
            .arg("-P")
            .arg(self.path.join("kamailio.pid"))
            .arg("-w")
            .arg(&self.path)
            .envs(self.config.panic_at.iter().map(|entry| ("PRESENCE_PANIC_AT", entry)))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_too)
            .process_group(0);
        // SAFETY: prctl is async-signal-safe; when the thread of the test is
        // gone (Ctrl-C), Kamailio is told to end.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
        let child =
            command.spawn().unwrap_or_else(|error| panic!("cannot run `kamailio`: {error}"));
        *self.process.borrow_mut() = Some(child);
        let ready = eventually(READY, || {
            if !self.is_alive() {
                return Some(false);
            }
            // A raw configuration may come without the ctl socket.
            let socket = self.path.join("ctl.sock");
            let wanted = self.config.raw.as_ref().is_none_or(|raw| raw.contains("ctl.sock"));
            if !wanted {
                return self.log().contains("io_listen_loop").then_some(true);
            }
            (socket.exists() && self.rpc(&["core.version"]).is_ok()).then_some(true)
        });
        match ready {
            Some(true) => Ok(()),
            _ => {
                self.kill_group();
                self.reported.set(true);
                Err(self.log()[before..].to_owned())
            }
        }
    }

    /// The folder of this Kamailio.
    pub fn folder(&self) -> &Path {
        &self.path
    }

    fn log_file(&self) -> PathBuf {
        self.path.join("kamailio.log")
    }

    /// The database (panics when the storage has none).
    pub fn database(&self) -> &Database {
        self.database.as_ref().unwrap_or_else(|| panic!("this Kamailio has no database"))
    }

    /// Where publications and subscriptions are kept.
    pub fn storage(&self) -> Storage {
        self.config.storage
    }

    /// All rows of a table.
    pub fn rows(&self, table: &str) -> Vec<Row> {
        self.database().rows(table)
    }

    /// Runs statements that change something in the database.
    pub fn execute(&self, sql: &str) {
        self.database().execute(sql);
    }

    /// The UDP (and TCP) address it listens on.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port.number))
    }

    /// The record of all SIP messages of this test.
    pub fn trace(&self) -> Trace {
        self.trace.clone()
    }

    /// Everything it has logged (over all restarts).
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The lines of the log that contain `part`; a line that is still being
    /// written does not count.
    pub fn log_lines(&self, part: &str) -> Vec<String> {
        let log = self.log();
        let (whole, _) = log.rsplit_once('\n').unwrap_or_default();
        whole.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
    }

    /// Waits until a line of the log contains `part` and gives it; panics with
    /// the log when none comes.
    pub fn wait_log(&self, part: &str) -> String {
        eventually(LOG_TIMEOUT, || self.log_lines(part).into_iter().next())
            .unwrap_or_else(|| self.fail(&format!("no log line with {part:?} in {LOG_TIMEOUT:?}")))
    }

    /// What `handle_publish` / `handle_subscribe` returned for the first `count`
    /// requests with this Call-ID, in order (waits for their log lines).
    pub fn script_results(&self, call_id: &str, count: usize) -> Vec<i32> {
        let results = || -> Vec<i32> {
            self.log_lines("SCRIPT-RESULT")
                .iter()
                .filter(|line| line.trim_end().ends_with(call_id))
                .filter_map(|line| {
                    let rest = line.split("SCRIPT-RESULT ").nth(1)?;
                    rest.split(' ').nth(1)?.parse().ok()
                })
                .collect()
        };
        eventually(LOG_TIMEOUT, || Some(results()).filter(|list| list.len() >= count))
            .unwrap_or_else(|| {
                self.fail(&format!("{:?}, not {count} results for {call_id}", results()))
            })
    }

    /// True while the main process runs.
    pub fn is_alive(&self) -> bool {
        match self.process.borrow_mut().as_mut() {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => false,
        }
    }

    /// Runs `kamcmd` with these arguments; `Err` has the text of the fault.
    pub fn rpc(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new("kamcmd")
            .arg("-s")
            .arg(format!("unix:{}", self.path.join("ctl.sock").display()))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("cannot run kamcmd: {error}"))?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() || stdout.starts_with("error:") || stderr.contains("ERROR") {
            return Err(format!("{stdout}{stderr}").trim().to_owned());
        }
        Ok(stdout)
    }

    /// [`Kamailio::rpc`] that must work.
    pub fn rpc_ok(&self, arguments: &[&str]) -> String {
        self.rpc(arguments)
            .unwrap_or_else(|error| self.fail(&format!("kamcmd {arguments:?}: {error}")))
    }

    /// A JSON-RPC request over the FIFO of jsonrpcs; the whole reply.
    pub fn json_rpc(&self, method: &str, parameters: &serde_json::Value) -> serde_json::Value {
        let name = crate::sip::unique("reply");
        let reply = self.path.join(&name);
        let status = Command::new("mkfifo").args(["-m", "666"]).arg(&reply).status();
        assert!(status.is_ok_and(|status| status.success()), "mkfifo {}", reply.display());
        // Read and write: opening does not wait for the other side.
        let reader = OpenOptions::new().read(true).write(true).open(&reply);
        let mut reader = reader.unwrap_or_else(|error| panic!("reply fifo: {error}"));
        let request = serde_json::json!({
            "jsonrpc": "2.0", "method": method, "params": parameters, "id": 1, "reply_name": name,
        });
        let fifo = self.path.join("rpc.fifo");
        std::fs::write(&fifo, format!("{request}\n")).unwrap_or_else(|error| {
            self.fail(&format!("cannot write {}: {error}", fifo.display()))
        });
        // SAFETY: a descriptor that is open; sets non-blocking reads.
        unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        let mut bytes = Vec::new();
        eventually(Duration::from_secs(5), || {
            let mut chunk = [0; 65536];
            while let Ok(count) = std::io::Read::read(&mut reader, &mut chunk) {
                bytes.extend_from_slice(&chunk[..count]);
            }
            serde_json::from_slice(&bytes).ok()
        })
        .unwrap_or_else(|| {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            self.fail(&format!("no JSON-RPC reply to {method}, only {text:?}"))
        })
    }

    /// Shared memory in use, in bytes (`core.shmmem`).
    pub fn shm_used(&self) -> u64 {
        let text = self.rpc_ok(&["core.shmmem"]);
        text.lines()
            .find_map(|line| line.trim().strip_prefix("used: ")?.trim().parse().ok())
            .unwrap_or_else(|| self.fail(&format!("no `used` in core.shmmem: {text}")))
    }

    /// Sends SIGTERM and waits for the end; the exit status of the main process.
    pub fn stop_cleanly(&self) -> ExitStatus {
        let Some(mut child) = self.process.borrow_mut().take() else {
            self.fail("stop_cleanly: Kamailio is not running");
        };
        match terminate(&mut child) {
            Some(status) => status,
            None => {
                let members = group_members(child.id());
                let only_main = members.iter().all(|(id, _)| *id == child.id() as i32);
                let module_stopped = self.module.get() == Target::Upstream
                    || self.log().contains("presence has stopped");
                if only_main && module_stopped {
                    // The core waits in its own clean-up for a lock of a child
                    // that SIGTERM ended; about 1 of 100 stops of a busy
                    // machine, with the stock module as with ours.
                    eprintln!("Kamailio hangs in its own clean-up, after the modules'");
                    *self.process.borrow_mut() = Some(child);
                    self.kill_group();
                    return ExitStatus::default();
                }
                let left: String = members.into_iter().map(|(_, text)| text).collect();
                *self.process.borrow_mut() = Some(child);
                self.kill_group();
                self.fail(&format!(
                    "Kamailio did not end within {STOP:?} after SIGTERM; left are:\n{left}"
                ))
            }
        }
    }

    /// Kills the whole process group without warning (a crash).
    pub fn kill(&self) {
        self.kill_group();
    }

    fn kill_group(&self) {
        if let Some(mut child) = self.process.borrow_mut().take() {
            // It leads its own process group (process_group(0) above).
            signal(-(child.id() as i32), libc::SIGKILL);
            let _ = child.wait();
        }
    }

    /// Lines of the log that say that something went wrong inside: CRITICAL,
    /// BUG, a child that ended by a signal.
    pub fn log_faults(&self) -> Vec<String> {
        self.log()
            .lines()
            .filter(|line| {
                line.contains("CRITICAL")
                    || line.contains("BUG")
                    || line.contains("exited by a signal")
                    || line.contains("panicked at")
                    || line.contains("Segmentation fault")
            })
            // The core's TCP workers say so while it is shutting down.
            .filter(|line| !line.contains("receive_fd(): EOF"))
            .filter(|line| !self.config.ignored_log.iter().any(|part| line.contains(part)))
            .map(str::to_owned)
            .collect()
    }

    /// Fails the test when the process is gone or the log tells of a fault.
    pub fn check_healthy(&self) {
        if !self.is_alive() {
            self.fail("Kamailio is not running any more");
        }
        let faults = self.log_faults();
        if !faults.is_empty() {
            self.fail(&format!("faults in the log:\n{}", faults.join("\n")));
        }
    }

    /// The end of a test: healthy, stops cleanly with status 0, and stays
    /// healthy while stopping.
    pub fn finish(&self) {
        self.check_healthy();
        let status = self.stop_cleanly();
        if !status.success() {
            let signal = status.signal();
            self.fail(&format!("Kamailio ended with {status} (signal {signal:?})"));
        }
        let faults = self.log_faults();
        if !faults.is_empty() {
            self.fail(&format!("faults in the log while stopping:\n{}", faults.join("\n")));
        }
        self.checked.set(true);
    }

    /// Fails the test; the message has the tail of the log and of the SIP trace.
    pub fn fail(&self, message: &str) -> ! {
        self.reported.set(true);
        let report = self.report();
        panic!("{message}\n{report}")
    }

    /// Log tail and SIP trace as text.
    pub fn report(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n");
        format!(
            "---- SIP trace ----\n{}---- kamailio log ({:?} under test), {} ----\n{tail}\n----",
            self.trace.tail(),
            target(),
            self.log_file().display(),
        )
    }
}

/// Sends a signal to a process (or, negative, to a process group) that we started.
fn signal(pid: i32, number: i32) {
    // SAFETY: kill has no memory effects; the id is that of our own child,
    // which has not been waited for yet.
    unsafe { libc::kill(pid, number) };
}

/// SIGTERM, and a bounded wait. A child of Kamailio's that is told to end in the
/// moment after its fork may miss it (the core's own race, seen with the stock
/// module too); such a child is told again.
fn terminate(child: &mut Child) -> Option<ExitStatus> {
    signal(child.id() as i32, libc::SIGTERM);
    let mut ended = eventually(STOP / 4, || child.try_wait().ok().flatten());
    if ended.is_none() {
        for (id, text) in group_members(child.id()) {
            if id != child.id() as i32 {
                eprintln!("told to end once more: {text}");
                signal(id, libc::SIGTERM);
            }
        }
        ended = eventually(STOP, || child.try_wait().ok().flatten());
    }
    ended
}

/// The processes of a group with state and kernel wait channel, to see where
/// one hangs; the numbers are those in the log lines.
fn group_members(group: u32) -> Vec<(i32, String)> {
    let mut members = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let read =
            |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        let stat = read("stat");
        let Some((head, rest)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<&str> = rest.split(' ').collect();
        let id = head.split(' ').next().and_then(|id| id.parse().ok());
        if fields.get(2).and_then(|field| field.parse().ok()) == Some(group)
            && let Some(id) = id
        {
            let text = format!(
                "{head}) state {} parent {} waits in {} syscall {}",
                fields[0],
                fields[1],
                read("wchan"),
                read("syscall")
            );
            members.push((id, text));
        }
    }
    members
}

impl Drop for Kamailio {
    fn drop(&mut self) {
        let panicking = std::thread::panicking();
        if panicking && !self.reported.get() {
            eprintln!("{}", self.report());
        }
        let child = self.process.borrow_mut().take();
        if let Some(mut child) = child
            && terminate(&mut child).is_none()
        {
            signal(-(child.id() as i32), libc::SIGKILL);
            let _ = child.wait();
        }
        if let Some(folder) = self.folder.borrow_mut().take()
            && (panicking || std::env::var_os("PRESENCE_KEEP_FOLDERS").is_some())
        {
            eprintln!("folder kept: {}", folder.keep().display());
        }
    }
}
