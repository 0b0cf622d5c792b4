//! A readable builder of `kamailio.cfg`.

use crate::database::Database;
use crate::limit;
use crate::target::{Target, fault_module_path, module_path, target};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// A database driver of Kamailio's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// No database at all.
    None,
    /// db_sqlite, a file.
    Sqlite,
    /// db_postgres, a server of the test process.
    Postgres,
    /// db_mysql, a server of the test process.
    MariaDb,
    /// db_text, files that Kamailio keeps in memory.
    DbText,
}

/// Where publications and subscriptions are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// `subs_db_mode` 0, `publ_cache` 2, no database at all.
    Memory,
    /// What a stock configuration gets: `subs_db_mode` 2, `publ_cache` 1; SQLite.
    /// With `PRESENCE_STORAGE` it is the cell named there, so that the same
    /// suite runs over every cell.
    Default,
    /// Any other combination.
    Cell(Cell),
}

/// A combination of driver and modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The database.
    pub driver: Driver,
    /// `subs_db_mode`
    pub subs_db_mode: u8,
    /// `publ_cache`
    pub publ_cache: u8,
    /// `notifier_processes`, used with `subs_db_mode` 3.
    pub notifiers: u8,
}

impl Cell {
    /// Reads `driver/subs_db_mode/publ_cache[/notifiers]`, such as `postgres/3/0/2`.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let driver = match parts.next()? {
            "sqlite" => Driver::Sqlite,
            "postgres" => Driver::Postgres,
            "mariadb" => Driver::MariaDb,
            "dbtext" => Driver::DbText,
            _ => return None,
        };
        let mut number =
            |highest: u8| parts.next()?.parse().ok().filter(|number: &u8| *number <= highest);
        let (subs_db_mode, publ_cache) = (number(3)?, number(2)?);
        Some(Self { driver, subs_db_mode, publ_cache, notifiers: number(20).unwrap_or(0) })
    }
}

/// The cell that `PRESENCE_STORAGE` names.
pub fn redirected() -> Option<Cell> {
    let text = std::env::var("PRESENCE_STORAGE").ok()?;
    let cell = Cell::parse(&text).unwrap_or_else(|| {
        panic!(
            "PRESENCE_STORAGE is `{text}`; it must be like postgres/3/0/2: sqlite, postgres, \
             mariadb or dbtext, subs_db_mode 0-3, publ_cache 0-2, notifier_processes"
        )
    });
    Some(cell)
}

impl Storage {
    /// SQLite with these modes, no notifier processes.
    pub const fn sqlite(subs_db_mode: u8, publ_cache: u8) -> Self {
        Self::on(Driver::Sqlite, subs_db_mode, publ_cache, 0)
    }

    /// Any driver with these modes.
    pub const fn on(driver: Driver, subs_db_mode: u8, publ_cache: u8, notifiers: u8) -> Self {
        Self::Cell(Cell { driver, subs_db_mode, publ_cache, notifiers })
    }

    /// The same with notifier processes.
    pub fn with_notifiers(self, notifiers: u8) -> Self {
        Self::Cell(Cell { notifiers, ..self.cell() })
    }

    /// Driver and modes.
    pub fn cell(self) -> Cell {
        let cell = |driver, subs_db_mode, publ_cache| Cell {
            driver,
            subs_db_mode,
            publ_cache,
            notifiers: 0,
        };
        match self {
            Storage::Memory => cell(Driver::None, 0, 2),
            Storage::Default => redirected().unwrap_or(cell(Driver::Sqlite, 2, 1)),
            Storage::Cell(cell) => cell,
        }
    }

    /// `subs_db_mode` of this storage.
    pub fn subs_db_mode(self) -> u8 {
        self.cell().subs_db_mode
    }

    /// `publ_cache` of this storage.
    pub fn publ_cache(self) -> u8 {
        self.cell().publ_cache
    }

    /// The database driver.
    pub fn driver(self) -> Driver {
        self.cell().driver
    }

    /// Whether there is a database.
    pub fn has_database(self) -> bool {
        self.driver() != Driver::None
    }

    /// Whether publications are rows that a test can read.
    pub fn has_publication_rows(self) -> bool {
        self.has_readable_tables() && self.publ_cache() < 2
    }

    /// Whether subscriptions are, or become, rows that a test can read.
    pub fn has_subscription_rows(self) -> bool {
        self.has_readable_tables() && self.subs_db_mode() > 0
    }

    /// Whether publications and subscriptions are there again after a restart,
    /// in tables that a test can read.
    pub fn survives_restart(self) -> bool {
        let both = self.has_publication_rows() && self.has_subscription_rows();
        if !both {
            eprintln!("not run with {self:?}: a restart forgets");
        }
        both
    }

    /// Whether the database refuses a value that is longer than its column (B20).
    pub fn enforces_lengths(self) -> bool {
        matches!(self.driver(), Driver::Postgres | Driver::MariaDb)
    }

    /// Whether the database is PostgreSQL.
    pub fn is_postgres(self) -> bool {
        matches!(self.driver(), Driver::Postgres)
    }

    /// Whether a test can use SQL while Kamailio runs.
    pub fn has_readable_tables(self) -> bool {
        !matches!(self.driver(), Driver::None | Driver::DbText)
    }

    /// Whether notifier processes send the NOTIFYs, and how much later that may be.
    pub fn notify_delay(self) -> Duration {
        let cell = self.cell();
        if cell.subs_db_mode == 3 && cell.notifiers > 0 {
            Duration::from_millis(1300)
        } else {
            Duration::ZERO
        }
    }

    /// Seconds that a publication has to live so that its watchers see it:
    /// notifier processes look once a second.
    pub fn shortest_life(self) -> u32 {
        if self.notify_delay().is_zero() { 1 } else { 3 }
    }

    /// The CSeq of a dialog's first NOTIFY. Stock counts one less where it has
    /// not been in memory before; a number is only to rise.
    pub fn first_cseq(self) -> u32 {
        if self.subs_db_mode() == 3 && target() == Target::Upstream { 1 } else { 2 }
    }

    /// True when a test whose assertions hold for these modes only is to go on.
    pub fn is_mode(self, subs_db_modes: &[u8], why: &str) -> bool {
        let go_on = subs_db_modes.contains(&self.subs_db_mode());
        if !go_on {
            eprintln!("not run with subs_db_mode {}: {why}", self.subs_db_mode());
        }
        go_on
    }
}

/// How often a random test is repeated: as the variable says, else `usual`, or
/// 20 times with `PRESENCE_MATRIX=full`. The test's time limit grows with it.
pub fn rounds(variable: &str, usual: u32) -> u32 {
    let number = std::env::var(variable).ok().and_then(|number| number.parse().ok());
    let number = number.unwrap_or(if whole_matrix() { 20 } else { usual });
    limit::allow(limit::USUAL.saturating_mul(number.max(1)));
    number
}

/// True with `PRESENCE_MATRIX=full`.
pub fn whole_matrix() -> bool {
    std::env::var("PRESENCE_MATRIX").is_ok_and(|value| value == "full")
}

/// True when a long test is to go on with this storage: one of those of
/// [`crate::every_storage`], as far as drivers and `subs_db_mode` go, or any
/// with `PRESENCE_MATRIX=full`.
pub fn long_test_of(storage: Storage) -> bool {
    let cell = storage.cell();
    let usual = matches!(
        (cell.driver, cell.subs_db_mode, cell.notifiers),
        (Driver::Sqlite | Driver::MariaDb, 2, _)
            | (Driver::Postgres, 1 | 2, _)
            | (Driver::Postgres, 3, 0)
            | (Driver::MariaDb, 3, 1..)
    );
    let go_on = usual && cell.publ_cache < 2 || whole_matrix();
    if !go_on {
        eprintln!("not run: {cell:?} is for PRESENCE_MATRIX=full");
    }
    go_on
}

/// Whether the test of this storage is to run. With `PRESENCE_STORAGE` only
/// that of [`Storage::Default`] is, for the others have been run without it.
pub fn is_wanted(storage: Storage) -> bool {
    if redirected().is_some() && storage != Storage::Default {
        eprintln!("not run: PRESENCE_STORAGE names another storage");
        return false;
    }
    true
}

/// The value of a module parameter.
#[derive(Clone, Debug)]
pub enum Value {
    /// An integer parameter.
    Int(i64),
    /// A string parameter.
    Str(String),
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Value::Int(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Str(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Str(text)
    }
}

/// What goes into the configuration of one Kamailio.
#[derive(Clone)]
pub struct Config {
    pub(crate) storage: Storage,
    pub(crate) database: Option<Database>,
    pub(crate) children: u32,
    pub(crate) shared_megabytes: u32,
    pub(crate) private_megabytes: u32,
    pub(crate) tcp: bool,
    pub(crate) jsonrpcs: bool,
    pub(crate) ignored_log: Vec<String>,
    pub(crate) raw: Option<String>,
    pub(crate) panic_at: Option<String>,
    pub(crate) module: Target,
    debug: i32,
    newtran: bool,
    siblings: Vec<String>,
    modules: Vec<String>,
    parameters: Vec<(String, String, Value)>,
    globals: Vec<String>,
    before: String,
    before_publish: String,
    before_subscribe: String,
    after: String,
    publish_arguments: String,
    subscribe_arguments: String,
    extra_routes: String,
}

impl Config {
    /// One worker, 32 MB of shared memory, UDP only; presence with
    /// presence_xml (`force_active=1`), presence_mwi and presence_dialoginfo;
    /// timers that do not come by in a short test unless asked for.
    pub fn new(storage: Storage) -> Self {
        Self {
            storage,
            database: None,
            children: 1,
            shared_megabytes: 32,
            private_megabytes: 8,
            tcp: false,
            jsonrpcs: false,
            ignored_log: Vec::new(),
            raw: None,
            panic_at: None,
            module: target(),
            debug: 2,
            newtran: true,
            siblings: ["presence_xml", "presence_mwi", "presence_dialoginfo"]
                .map(str::to_owned)
                .to_vec(),
            modules: Vec::new(),
            parameters: vec![("presence_xml".into(), "force_active".into(), Value::Int(1))],
            globals: Vec::new(),
            before: String::new(),
            before_publish: String::new(),
            before_subscribe: String::new(),
            after: String::new(),
            publish_arguments: String::new(),
            subscribe_arguments: String::new(),
            extra_routes: String::new(),
        }
    }

    /// Loads our module as built with feature `fault-injection` and makes the
    /// entry point `entry` panic whenever it is called.
    pub fn panic_at(mut self, entry: &str) -> Self {
        self.panic_at = Some(entry.to_owned());
        self.ignore_log("injected fault")
    }

    /// Loads this module, whichever is under test ([`Kamailio::start_again_with`]).
    pub fn with_module(mut self, module: Target) -> Self {
        self.module = module;
        self
    }

    /// Uses this database instead of a new one: shared with another Kamailio,
    /// or prepared by the test.
    pub fn database(mut self, database: &Database) -> Self {
        self.database = Some(database.clone());
        self
    }

    /// Number of UDP worker processes.
    pub fn children(mut self, count: u32) -> Self {
        self.children = count;
        self
    }

    /// `-m`: shared memory in MB.
    pub fn shared_memory(mut self, megabytes: u32) -> Self {
        self.shared_megabytes = megabytes;
        self
    }

    /// `-M`: private memory in MB.
    pub fn private_memory(mut self, megabytes: u32) -> Self {
        self.private_megabytes = megabytes;
        self
    }

    /// Listens on TCP as well (same port).
    pub fn tcp(mut self) -> Self {
        self.tcp = true;
        self
    }

    /// Listens on TCP, and takes WebSocket there.
    pub fn websocket(self) -> Self {
        self.tcp().global("tcp_accept_no_cl=yes").module("xhttp").module("websocket").route(
            "event_route[xhttp:request] { ws_handle_handshake(); exit; }
             event_route[websocket:closed] { xlog(\"L_NOTICE\", \"WEBSOCKET-CLOSED\\n\"); }",
        )
    }

    /// Loads jsonrpcs with its FIFO transport.
    pub fn jsonrpcs(mut self) -> Self {
        self.jsonrpcs = true;
        self
    }

    /// Core log level (default 2, info).
    pub fn debug(mut self, level: i32) -> Self {
        self.debug = level;
        self
    }

    /// A script without `t_newtran()`: replies are stateless and
    /// retransmissions reach the module.
    pub fn stateless(mut self) -> Self {
        self.newtran = false;
        self
    }

    /// Replaces the list of sibling modules (loaded after presence).
    pub fn siblings(mut self, names: &[&str]) -> Self {
        self.siblings = names.iter().map(|name| (*name).to_owned()).collect();
        self.parameters
            .retain(|(module, ..)| module == "presence" || names.contains(&module.as_str()));
        self
    }

    /// Loads one more module before presence.
    pub fn module(mut self, name: &str) -> Self {
        self.modules.push(name.to_owned());
        self
    }

    /// A parameter of the presence module.
    pub fn presence(self, name: &str, value: impl Into<Value>) -> Self {
        self.parameter("presence", name, value)
    }

    /// A parameter of any module; replaces an earlier value. `@DATABASE@` in
    /// a string is replaced by the database's URL.
    pub fn parameter(mut self, module: &str, name: &str, value: impl Into<Value>) -> Self {
        self.parameters.retain(|(m, n, _)| m != module || n != name);
        self.parameters.push((module.to_owned(), name.to_owned(), value.into()));
        self
    }

    /// A core setting, such as `udp_mtu=1200`.
    pub fn global(mut self, line: &str) -> Self {
        self.globals.push(line.to_owned());
        self
    }

    /// Statements at the very start of the request route.
    pub fn before(mut self, statements: &str) -> Self {
        self.before += statements;
        self
    }

    /// Statements before `handle_publish`.
    pub fn before_publish(mut self, statements: &str) -> Self {
        self.before_publish += statements;
        self
    }

    /// Statements before `handle_subscribe`.
    pub fn before_subscribe(mut self, statements: &str) -> Self {
        self.before_subscribe += statements;
        self
    }

    /// Statements after either function.
    pub fn after(mut self, statements: &str) -> Self {
        self.after += statements;
        self
    }

    /// The argument list of `handle_publish`, such as `"$fu"` with its quotes.
    pub fn publish_arguments(mut self, arguments: &str) -> Self {
        self.publish_arguments = arguments.to_owned();
        self
    }

    /// The argument list of `handle_subscribe`.
    pub fn subscribe_arguments(mut self, arguments: &str) -> Self {
        self.subscribe_arguments = arguments.to_owned();
        self
    }

    /// More routes, such as an `event_route[presence:notify-reply] {...}`.
    pub fn route(mut self, text: &str) -> Self {
        self.extra_routes += text;
        self.extra_routes.push('\n');
        self
    }

    /// Log lines that contain `part` are not counted as faults by
    /// [`crate::kamailio::Kamailio::log_faults`].
    pub fn ignore_log(mut self, part: &str) -> Self {
        self.ignored_log.push(part.to_owned());
        self
    }

    /// Uses this text as the whole configuration; `@PORT@`, `@FOLDER@`,
    /// `@MPATH@` and `@DATABASE@` are replaced.
    pub fn raw(mut self, text: &str) -> Self {
        self.raw = Some(text.to_owned());
        self
    }

    /// The text of `kamailio.cfg`.
    pub(crate) fn text(&self, folder: &Path, port: u16, database: Option<&Database>) -> String {
        let database = database.map_or_else(String::new, Database::url);
        let socket = folder.join("ctl.sock");
        if let Some(raw) = &self.raw {
            return raw
                .replace("@PORT@", &port.to_string())
                .replace("@FOLDER@", &folder.display().to_string())
                .replace("@MPATH@", &module_path(self.module))
                .replace("@DATABASE@", &database);
        }
        let mut text = String::from("#!KAMAILIO\n");
        let mut line = |content: std::fmt::Arguments<'_>| {
            let _ = writeln!(text, "{content}");
        };
        line(format_args!("debug={}\nlog_stderror=yes\nfork=yes", self.debug));
        line(format_args!("children={}\nlisten=udp:127.0.0.1:{port}", self.children));
        if self.tcp {
            line(format_args!("tcp_children={}\nlisten=tcp:127.0.0.1:{port}", self.children));
        } else {
            line(format_args!("disable_tcp=yes"));
        }
        line(format_args!("dns=no\nrev_dns=no\nauto_aliases=no\ndns_retr_time=1\ndns_retr_no=1"));
        for global in &self.globals {
            line(format_args!("{global}"));
        }
        let modules = match self.panic_at {
            Some(_) => fault_module_path(),
            None => module_path(self.module),
        };
        line(format_args!("mpath=\"{modules}\""));
        for module in ["kex", "corex", "tm", "tmx", "sl", "pv", "xlog", "textops", "rr", "ctl"] {
            line(format_args!("loadmodule \"{module}.so\""));
        }
        let driver = match self.storage.driver() {
            Driver::None => "",
            Driver::Sqlite => "db_sqlite",
            Driver::Postgres => "db_postgres",
            Driver::MariaDb => "db_mysql",
            Driver::DbText => "db_text",
        };
        if !driver.is_empty() {
            line(format_args!("loadmodule \"{driver}.so\""));
        }
        if self.jsonrpcs {
            line(format_args!("loadmodule \"jsonrpcs.so\""));
            line(format_args!("modparam(\"jsonrpcs\", \"transport\", 2)"));
            let fifo = folder.join("rpc.fifo");
            line(format_args!("modparam(\"jsonrpcs\", \"fifo_name\", \"{}\")", fifo.display()));
            line(format_args!(
                "modparam(\"jsonrpcs\", \"fifo_reply_dir\", \"{}/\")",
                folder.display()
            ));
        }
        for module in &self.modules {
            line(format_args!("loadmodule \"{module}.so\""));
        }
        line(format_args!("loadmodule \"presence.so\""));
        for sibling in &self.siblings {
            line(format_args!("loadmodule \"{sibling}.so\""));
        }
        line(format_args!("modparam(\"ctl\", \"binrpc\", \"unix:{}\")", socket.display()));
        let mut defaults: Vec<(String, String, Value)> = Vec::new();
        let mut default = |name: &str, value: Value| {
            defaults.push(("presence".into(), name.into(), value));
        };
        default("subs_db_mode", i64::from(self.storage.subs_db_mode()).into());
        default("publ_cache", i64::from(self.storage.publ_cache()).into());
        if self.storage.has_database() {
            default("db_url", database.clone().into());
        }
        if self.storage.subs_db_mode() == 3 {
            default("notifier_processes", i64::from(self.storage.cell().notifiers).into());
            default("waitn_time", 1.into());
        }
        if matches!(self.storage.subs_db_mode(), 1 | 3) {
            // As the manual says for mode 3; else stock meets "not locked with
            // LOCK TABLES" on MariaDB, in mode 1 as well.
            default("db_table_lock_type", 0.into());
        }
        for (module, name, value) in defaults {
            if !self.parameters.iter().any(|(m, n, _)| *m == module && *n == name) {
                line(format_args!("{}", modparam(&module, &name, &value)));
            }
        }
        for (module, name, value) in &self.parameters {
            let value = match value {
                Value::Str(text) => Value::Str(text.replace("@DATABASE@", &database)),
                Value::Int(number) => Value::Int(*number),
            };
            line(format_args!("{}", modparam(module, name, &value)));
        }
        let publish = format!("handle_publish({})", self.publish_arguments);
        let subscribe = format!("handle_subscribe({})", self.subscribe_arguments);
        let newtran =
            if self.newtran { "if(!t_newtran()) { sl_reply_error(); exit; }" } else { "" };
        let release = if self.newtran { "t_release();" } else { "" };
        line(format_args!(
            "request_route {{
  {before}
  if(method==\"OPTIONS\") {{ sl_send_reply(\"200\", \"Barrier\"); exit; }}
  if(method!=\"PUBLISH\" && method!=\"SUBSCRIBE\") {{
    if(method!=\"ACK\") {{ sl_send_reply(\"405\", \"Method Not Allowed\"); }}
    exit;
  }}
  {newtran}
  if(method==\"PUBLISH\") {{
    {before_publish}
    {publish};
    $var(result) = $rc;
  }} else {{
    {before_subscribe}
    {subscribe};
    $var(result) = $rc;
  }}
  xlog(\"L_NOTICE\", \"SCRIPT-RESULT $rm $var(result) $ci\\n\");
  {after}
  {release}
}}
{routes}",
            before = self.before,
            before_publish = self.before_publish,
            before_subscribe = self.before_subscribe,
            after = self.after,
            routes = self.extra_routes,
        ));
        text.replace("@PORT@", &port.to_string())
    }
}

fn modparam(module: &str, name: &str, value: &Value) -> String {
    match value {
        Value::Int(number) => format!("modparam(\"{module}\", \"{name}\", {number})"),
        Value::Str(text) => format!("modparam(\"{module}\", \"{name}\", \"{text}\")"),
    }
}
