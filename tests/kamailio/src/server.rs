//! Database servers of our own: PostgreSQL and MariaDB, each in a temporary
//! folder, on a private port of 127.0.0.1, without a care for durability.

use crate::kamailio::{Port, eventually};
use std::ffi::CString;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, mpsc};
use std::time::Duration;

/// Where Debian keeps the programs of PostgreSQL 15.
const POSTGRES: &str = "/usr/lib/postgresql/15/bin";
/// How long a server may take to be ready, or to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// Which kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// PostgreSQL 15.
    Postgres,
    /// MariaDB 10.11.
    MariaDb,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Postgres => "postgres",
            Kind::MariaDb => "mariadb",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Kind::Postgres => "postgresql-15 and kamailio-postgres-modules",
            Kind::MariaDb => "mariadb-server and kamailio-mysql-modules",
        }
    }

    /// The user that the package made; root may not run a server.
    fn user(self) -> &'static str {
        match self {
            Kind::Postgres => "postgres",
            Kind::MariaDb => "mysql",
        }
    }

    /// The script that makes Kamailio's standard and presence tables.
    fn schema(self) -> String {
        let folder = match self {
            Kind::Postgres => "/usr/share/kamailio/postgres",
            Kind::MariaDb => "/usr/share/kamailio/mysql",
        };
        schema(Path::new(folder), self.package())
    }
}

/// The distribution's scripts for the tables in `folder`, joined.
pub(crate) fn schema(folder: &Path, package: &str) -> String {
    ["standard-create.sql", "presence-create.sql", "rls-create.sql"]
        .map(|name| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).unwrap_or_else(|error| {
                panic!("cannot read {}: {error}; install {package}", path.display())
            })
        })
        .concat()
}

/// A server of this process. The process's end, however it comes, ends it.
pub struct Server {
    kind: Kind,
    folder: PathBuf,
    port: Port,
    process: Mutex<Option<Child>>,
    databases: AtomicU32,
    creating: Mutex<()>,
    /// What it is started with besides.
    options: Vec<String>,
}

impl Server {
    /// The server that the tests of this process share; started when first asked for.
    pub fn shared(kind: Kind) -> Arc<Server> {
        static POSTGRES: OnceLock<Arc<Server>> = OnceLock::new();
        static MARIADB: OnceLock<Arc<Server>> = OnceLock::new();
        let cell = match kind {
            Kind::Postgres => &POSTGRES,
            Kind::MariaDb => &MARIADB,
        };
        Arc::clone(cell.get_or_init(|| Server::private(kind)))
    }

    /// A server for one test, which may stop it.
    pub fn private(kind: Kind) -> Arc<Server> {
        Self::with(kind, Vec::new())
    }

    /// The same, started with more options.
    pub fn with(kind: Kind, options: Vec<String>) -> Arc<Server> {
        let server = Self::new(kind, options);
        server.initialise();
        server.start();
        if kind == Kind::Postgres {
            server.must(None, "CREATE DATABASE kamailio");
            server.must(Some("kamailio"), &kind.schema());
        }
        Arc::new(server)
    }

    /// A standby of this PostgreSQL server, with a copy of all it has now; it applies
    /// what comes until it is promoted.
    pub fn standby(&self) -> Arc<Server> {
        let server = Self::new(self.kind, self.options.clone());
        let mut command = Command::new(format!("{POSTGRES}/pg_basebackup"));
        command.args(["-h", "127.0.0.1", "-U", "presence", "-R", "-X", "stream", "-c", "fast"]);
        command.args(["-p", &self.port.number.to_string(), "-D"]).arg(server.data());
        server.make(command);
        server.start();
        Arc::new(server)
    }

    fn new(kind: Kind, options: Vec<String>) -> Server {
        let folder = tempfile::Builder::new()
            .prefix(&format!("presence-test-{}-", kind.name()))
            .tempdir()
            .unwrap_or_else(|error| panic!("cannot create a temporary folder: {error}"))
            .keep();
        remember(&folder);
        own(&folder, kind);
        Server {
            kind,
            folder,
            port: Port::reserve(),
            process: Mutex::new(None),
            databases: AtomicU32::new(0),
            creating: Mutex::new(()),
            options,
        }
    }

    /// The port that it listens at.
    pub fn port(&self) -> u16 {
        self.port.number
    }

    /// Ends it at once, as a machine that fails.
    pub fn kill(&self) {
        let Some(mut child) = self.lock().take() else { panic!("the server is not running") };
        end(child.id() as i32, self.kind.kill_signal());
        let _ = child.wait();
        living().retain(|(id, _)| *id != child.id() as i32);
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// With a folder for temporary tables of its own: a server that starts
    /// removes what it finds there, whosever it is.
    fn mariadb_folders(&self) -> [String; 2] {
        [("datadir", self.data()), ("tmpdir", self.folder.clone())]
            .map(|(option, folder)| format!("--{option}={}", folder.display()))
    }

    fn initialise(&self) {
        let command = match self.kind {
            Kind::Postgres => {
                let mut command = Command::new(format!("{POSTGRES}/initdb"));
                command.args(["-A", "trust", "-U", "presence", "-E", "UTF8", "--locale=C"]);
                command.args(["--no-sync", "-D"]).arg(self.data());
                command
            }
            Kind::MariaDb => {
                let mut command = Command::new("mariadb-install-db");
                command.args(["--no-defaults", "--skip-test-db"]);
                command.arg("--auth-root-authentication-method=normal").args(MARIADB_OPTIONS);
                command.args(self.mariadb_folders());
                command
            }
        };
        self.make(command);
    }

    /// Runs the command that makes its files.
    fn make(&self, mut command: Command) {
        lower(&mut command, self.kind);
        let output = command.current_dir(&self.folder).stdin(Stdio::null()).output();
        let output = output.unwrap_or_else(|error| self.absent(&command, &error));
        assert!(
            output.status.success(),
            "{command:?} ends with {}:\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn absent(&self, command: &Command, error: &std::io::Error) -> ! {
        panic!(
            "cannot run {}: {error}; install {}",
            command.get_program().display(),
            self.kind.package()
        )
    }

    /// Starts it (again) on the same port with the same data; waits until it answers.
    pub fn start(&self) {
        let log = File::options().create(true).append(true).open(self.folder.join("log"));
        let log = log.unwrap_or_else(|error| panic!("log of a server: {error}"));
        let log_too = log.try_clone().unwrap_or_else(|error| panic!("log of a server: {error}"));
        let port = self.port.number.to_string();
        let mut command = match self.kind {
            Kind::Postgres => {
                let mut command = Command::new(format!("{POSTGRES}/postgres"));
                command.arg("-D").arg(self.data()).args(["-h", "127.0.0.1", "-k", "", "-p", &port]);
                for setting in [
                    "fsync=off",
                    "synchronous_commit=off",
                    "full_page_writes=off",
                    "max_connections=400",
                    "shared_buffers=32MB",
                ] {
                    command.args(["-c", setting]);
                }
                command
            }
            Kind::MariaDb => {
                let mut command = Command::new("mariadbd");
                command.arg("--no-defaults").args(MARIADB_OPTIONS);
                command.args(["--skip-grant-tables", "--skip-name-resolve", "--skip-log-bin"]);
                command.args([
                    "--bind-address=127.0.0.1",
                    "--max-connections=400",
                    "--port",
                    &port,
                ]);
                command.args(self.mariadb_folders());
                command.arg(format!("--socket={}", self.folder.join("sock").display()));
                command.arg(format!("--pid-file={}", self.folder.join("pid").display()));
                command
            }
        };
        command.args(&self.options);
        lower(&mut command, self.kind);
        command.current_dir(&self.folder).stdin(Stdio::null()).stdout(log).stderr(log_too);
        command.process_group(0);
        // PostgreSQL tells its children when it is told to quit; a child whose
        // server is gone ends too.
        let signal = self.kind.kill_signal();
        // SAFETY: prctl is async-signal-safe. The thread that starts the server
        // lives as long as this process.
        unsafe {
            command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, signal);
                Ok(())
            });
        }
        let child = spawn_for_good(command).unwrap_or_else(|error| {
            panic!("{}: {error}; install {}", self.kind.name(), self.kind.package())
        });
        living().push((child.id() as i32, signal));
        *self.lock() = Some(child);
        let ready = eventually(PATIENCE, || {
            let ended =
                self.lock().as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if ended {
                return Some(false);
            }
            self.run(None, "SELECT 1", false).status.success().then_some(true)
        });
        assert!(ready == Some(true), "{} does not answer:\n{}", self.kind.name(), self.log());
    }

    /// Ends it as its service would: clients are thrown out, data are kept.
    pub fn stop(&self) {
        let Some(mut child) = self.lock().take() else { panic!("the server is not running") };
        let id = child.id() as i32;
        let signal = if self.kind == Kind::Postgres { libc::SIGINT } else { libc::SIGTERM };
        // SAFETY: kill has no memory effects; our own child, not waited for yet.
        unsafe { libc::kill(id, signal) };
        if eventually(PATIENCE, || child.try_wait().ok().flatten()).is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        living().retain(|(of, _)| *of != id);
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Makes a database with Kamailio's tables; its name.
    pub(crate) fn create_database(&self) -> String {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        match self.kind {
            Kind::Postgres => {
                // One at a time copies the model.
                let _one = self.creating.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                self.must(None, &format!("CREATE DATABASE {name} TEMPLATE kamailio"));
            }
            Kind::MariaDb => self.must(
                None,
                &format!("CREATE DATABASE {name}; USE {name};\n{}", self.kind.schema()),
            ),
        }
        name
    }

    /// Drops a database and whoever still uses it.
    pub(crate) fn drop_database(&self, name: &str) {
        if self.lock().is_some() {
            let force = if self.kind == Kind::Postgres { " WITH (FORCE)" } else { "" };
            self.run(None, &format!("DROP DATABASE {name}{force}"), false);
        }
    }

    /// The URL for Kamailio's driver.
    pub(crate) fn url(&self, database: &str) -> String {
        let scheme = match self.kind {
            Kind::Postgres => "postgres",
            Kind::MariaDb => "mysql",
        };
        format!("{scheme}://presence:presence@127.0.0.1:{}/{database}", self.port.number)
    }

    /// Runs statements that have to succeed.
    pub fn must(&self, database: Option<&str>, sql: &str) {
        let output = self.run(database, sql, false);
        assert!(
            output.status.success(),
            "{}: {}\n{}",
            self.kind.name(),
            sql.chars().take(300).collect::<String>(),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Runs statements with the server's own client, stopping at an error;
    /// `rows`: in the form that [`crate::database`] reads.
    pub(crate) fn run(&self, database: Option<&str>, sql: &str, rows: bool) -> Output {
        let port = self.port.number.to_string();
        let mut command = match self.kind {
            Kind::Postgres => {
                let mut command = Command::new("psql");
                command.args([
                    "-X",
                    "-q",
                    "-v",
                    "ON_ERROR_STOP=1",
                    "-h",
                    "127.0.0.1",
                    "-U",
                    "presence",
                ]);
                command.args(["-p", &port, "-d", database.unwrap_or("postgres"), "-f", "-"]);
                command.env("PGCONNECT_TIMEOUT", "5").env_remove("PGOPTIONS");
                if rows {
                    command.arg("-At");
                }
                command
            }
            Kind::MariaDb => {
                let mut command = Command::new("mariadb");
                command.args([
                    "--no-defaults",
                    "--batch",
                    "--protocol=TCP",
                    "-h127.0.0.1",
                    "-upresence",
                ]);
                command.args(["--connect-timeout=5", "-P", &port]);
                // `||` joins texts, as everywhere else.
                command.arg("--init-command=SET sql_mode=CONCAT(@@sql_mode, ',PIPES_AS_CONCAT')");
                command.args(database);
                command
            }
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| self.absent(&command, &error));
        // Clients read all statements before they write much; a client that
        // has given up closes the pipe.
        if let Some(mut stdin) = child.stdin.take() {
            let _ = stdin.write_all(sql.as_bytes());
        }
        child.wait_with_output().unwrap_or_else(|error| self.absent(&command, &error))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Kind {
    /// Ends a server at once.
    fn kill_signal(self) -> i32 {
        match self {
            Kind::Postgres => libc::SIGQUIT,
            Kind::MariaDb => libc::SIGKILL,
        }
    }
}

const MARIADB_OPTIONS: &[&str] = &[
    "--innodb-log-file-size=8M",
    "--innodb-buffer-pool-size=32M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
];

impl Drop for Server {
    fn drop(&mut self) {
        let child = self.lock().take();
        if let Some(mut child) = child {
            end(child.id() as i32, self.kind.kill_signal());
            living().retain(|(id, _)| *id != child.id() as i32);
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// SIGQUIT or SIGKILL, and a bounded wait until the process is a zombie.
fn end(id: i32, signal: i32) {
    // SAFETY: kill and waitid have no memory effects beyond `info`, which lives
    // here; the process is our child and has not been waited for.
    unsafe {
        libc::kill(id, signal);
        for _ in 0..300 {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
            if libc::waitid(libc::P_PID, id as u32, &raw mut info, flags) != 0 || info.si_pid() != 0
            {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        libc::kill(id, libc::SIGKILL);
    }
}

/// The servers that run, each with the signal that ends it.
fn living() -> MutexGuard<'static, Vec<(i32, i32)>> {
    static LIVING: Mutex<Vec<(i32, i32)>> = Mutex::new(Vec::new());
    LIVING.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The folders that this process has to remove.
fn folders() -> MutexGuard<'static, Vec<PathBuf>> {
    static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    FOLDERS.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The shared servers live in statics, which nobody drops: at the end of the
/// process they are ended and their folders removed. (A process that is killed
/// leaves its folders, not its servers.)
fn remember(folder: &Path) {
    static ONCE: OnceLock<()> = OnceLock::new();
    extern "C" fn clean_up() {
        for (id, signal) in living().drain(..) {
            end(id, signal);
        }
        for folder in folders().drain(..) {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
    folders().push(folder.to_owned());
    ONCE.get_or_init(|| {
        // SAFETY: a function without arguments, which does not unwind.
        unsafe { libc::atexit(clean_up) };
    });
}

/// Starts a process from a thread that lives as long as this process:
/// `PR_SET_PDEATHSIG` looks at the thread, and a test's thread ends with its test.
pub(crate) fn spawn_for_good(command: Command) -> std::io::Result<Child> {
    type Job = (Command, mpsc::Sender<std::io::Result<Child>>);
    static KEEPER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in jobs {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let (sender, answer) = mpsc::channel();
    let gone = || std::io::Error::other("the thread that starts servers is gone");
    keeper
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
        .send((command, sender))
        .map_err(|_| gone())?;
    answer.recv().unwrap_or_else(|_| Err(gone()))
}

/// User and group ids of the user that runs a server when we are root.
fn server_user(kind: Kind) -> Option<(u32, u32)> {
    // SAFETY: geteuid has no memory effects.
    if unsafe { libc::geteuid() } != 0 {
        return None;
    }
    [kind.user(), "nobody"].into_iter().find_map(|name| {
        let name = CString::new(name).ok()?;
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: a terminated string; the entry is read before anybody else
        // here asks again.
        unsafe { libc::getpwnam(name.as_ptr()).as_ref() }.map(|entry| (entry.pw_uid, entry.pw_gid))
    })
}

/// Gives the folder to that user.
pub(crate) fn own(folder: &Path, kind: Kind) {
    if let Some((uid, gid)) = server_user(kind) {
        std::os::unix::fs::chown(folder, Some(uid), Some(gid))
            .unwrap_or_else(|error| panic!("chown {}: {error}", folder.display()));
    }
}

/// Makes a command run as that user.
pub(crate) fn lower(command: &mut Command, kind: Kind) {
    if let Some((uid, gid)) = server_user(kind) {
        command.uid(uid).gid(gid);
    }
}
