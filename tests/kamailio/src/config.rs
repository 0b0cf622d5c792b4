//! A readable builder of `kamailio.cfg`.

use crate::target::{fault_module_path, module_path};
use std::fmt::Write as _;
use std::path::Path;

/// Where publications and subscriptions are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Storage {
    /// `subs_db_mode` 0, `publ_cache` 2, no database at all.
    Memory,
    /// What a stock configuration gets: `subs_db_mode` 2, `publ_cache` 1; SQLite.
    Default,
    /// Any other combination, on SQLite.
    Sqlite {
        /// `subs_db_mode`
        subs_db_mode: u8,
        /// `publ_cache`
        publ_cache: u8,
    },
}

impl Storage {
    /// `subs_db_mode` of this storage.
    pub fn subs_db_mode(self) -> u8 {
        match self {
            Storage::Memory => 0,
            Storage::Default => 2,
            Storage::Sqlite { subs_db_mode, .. } => subs_db_mode,
        }
    }

    /// `publ_cache` of this storage.
    pub fn publ_cache(self) -> u8 {
        match self {
            Storage::Memory => 2,
            Storage::Default => 1,
            Storage::Sqlite { publ_cache, .. } => publ_cache,
        }
    }

    /// Whether there is a database.
    pub fn has_database(self) -> bool {
        self != Storage::Memory
    }
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
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) storage: Storage,
    pub(crate) children: u32,
    pub(crate) shared_megabytes: u32,
    pub(crate) private_megabytes: u32,
    pub(crate) tcp: bool,
    pub(crate) jsonrpcs: bool,
    pub(crate) ignored_log: Vec<String>,
    pub(crate) raw: Option<String>,
    pub(crate) panic_at: Option<String>,
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
            children: 1,
            shared_megabytes: 32,
            private_megabytes: 8,
            tcp: false,
            jsonrpcs: false,
            ignored_log: Vec::new(),
            raw: None,
            panic_at: None,
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
    pub(crate) fn text(&self, folder: &Path, port: u16) -> String {
        // An absolute path makes it four slashes.
        let database = format!("sqlite:///{}", folder.join("presence.sqlite").display());
        let socket = folder.join("ctl.sock");
        if let Some(raw) = &self.raw {
            return raw
                .replace("@PORT@", &port.to_string())
                .replace("@FOLDER@", &folder.display().to_string())
                .replace("@MPATH@", &module_path())
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
            None => module_path(),
        };
        line(format_args!("mpath=\"{modules}\""));
        for module in ["kex", "corex", "tm", "tmx", "sl", "pv", "xlog", "textops", "rr", "ctl"] {
            line(format_args!("loadmodule \"{module}.so\""));
        }
        if self.storage.has_database() {
            line(format_args!("loadmodule \"db_sqlite.so\""));
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
