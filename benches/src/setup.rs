//! What Kamailio is started with, and its configuration text. Stock and ours
//! get the same text but for `mpath`; the floor answers in the script.

use presence_kamailio_tests::target::{STOCK_MODULE_DIR, our_module_dir};
use std::fmt::Write as _;
use std::path::Path;

/// What handles the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variant {
    /// The distribution's presence.so.
    Stock,
    /// The one of this repository.
    Ours,
    /// No presence module: the script answers, and the uac module sends NOTIFYs.
    Floor,
}

impl Variant {
    /// All of them, in the order in which they take turns.
    pub const ALL: [Variant; 3] = [Variant::Stock, Variant::Ours, Variant::Floor];

    /// As on the command line and in the results.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Stock => "stock",
            Variant::Ours => "ours",
            Variant::Floor => "floor",
        }
    }
}

/// Where a Kamailio keeps its data.
#[derive(Clone, Debug)]
pub struct Storage {
    /// `subs_db_mode`
    pub subs_db_mode: u8,
    /// `publ_cache`
    pub publ_cache: u8,
    /// The driver's module and the database's URL.
    pub database: Option<(&'static str, String)>,
}

/// Everything that the configuration depends on.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Who handles the requests.
    pub variant: Variant,
    /// `children`
    pub children: u32,
    /// `-m`, in megabytes.
    pub shared: u32,
    /// `-M`, in megabytes; Kamailio's default is 8.
    pub private: u32,
    /// Modes and database.
    pub storage: Storage,
    /// More parameters of presence, with quotes around strings.
    pub parameters: Vec<(&'static str, String)>,
    /// For the floor: the load's port, and how many watchers (from number 0)
    /// are notified on each PUBLISH.
    pub fan_out: Option<(u16, u32)>,
    /// Counts instructions (slow).
    pub callgrind: bool,
    /// As in the example: pike in front, and no transaction where the module
    /// does without.
    pub limits_requests: bool,
}

impl Setup {
    /// In memory, two workers, `-m 4096`, the default private memory.
    pub fn memory(variant: Variant) -> Self {
        Self {
            variant,
            children: 2,
            shared: 4096,
            private: 8,
            storage: Storage { subs_db_mode: 0, publ_cache: 2, database: None },
            parameters: Vec::new(),
            fan_out: None,
            callgrind: false,
            limits_requests: false,
        }
    }

    /// With a parameter of presence.
    pub fn parameter(mut self, name: &'static str, value: impl ToString) -> Self {
        self.parameters.push((name, value.to_string()));
        self
    }

    /// The text of `kamailio.cfg`; its control socket is in `folder`.
    pub fn text(&self, folder: &Path, port: u16) -> String {
        let modules = match self.variant {
            Variant::Ours => format!("{}:{STOCK_MODULE_DIR}", our_module_dir().display()),
            _ => STOCK_MODULE_DIR.to_owned(),
        };
        let mut text = format!(
            "#!KAMAILIO\ndebug=0\nlog_stderror=yes\nfork=yes\nchildren={}\n\
             listen=udp:127.0.0.1:{port}\ndisable_tcp=yes\ndns=no\nrev_dns=no\nauto_aliases=no\n\
             maxbuffer=67108864\nmpath=\"{modules}\"\n",
            self.children
        );
        for module in ["kex", "tm", "sl", "pv", "textops", "rr", "ctl"] {
            let _ = writeln!(text, "loadmodule \"{module}.so\"");
        }
        let socket = folder.join("ctl.sock");
        let control = format!("modparam(\"ctl\", \"binrpc\", \"unix:{}\")\n", socket.display());
        if self.variant == Variant::Floor {
            text += "loadmodule \"uac.so\"\nmodparam(\"uac\", \"restore_mode\", \"none\")\n";
            text += &control;
            text += "max_while_loops=1000000\n";
            text += &self.floor_route(port);
            return text;
        }
        if let Some((driver, _)) = &self.storage.database {
            let _ = writeln!(text, "loadmodule \"{driver}.so\"");
        }
        text += "loadmodule \"presence.so\"\nloadmodule \"presence_xml.so\"\n\
                 loadmodule \"presence_mwi.so\"\n";
        text += &control;
        text += "modparam(\"presence_xml\", \"force_active\", 1)\n";
        let _ = writeln!(
            text,
            "modparam(\"presence\", \"subs_db_mode\", {})\nmodparam(\"presence\", \"publ_cache\", {})",
            self.storage.subs_db_mode, self.storage.publ_cache
        );
        if let Some((_, url)) = &self.storage.database {
            let _ = writeln!(text, "modparam(\"presence|presence_xml\", \"db_url\", \"{url}\")");
        }
        for (name, value) in &self.parameters {
            let _ = writeln!(text, "modparam(\"presence\", \"{name}\", {value})");
        }
        if self.limits_requests {
            text += "loadmodule \"pike.so\"\nmodparam(\"pike\", \"sampling_time_unit\", 2)\n\
                     modparam(\"pike\", \"reqs_density_per_unit\", 1000)\n\
                     modparam(\"pike\", \"remove_latency\", 4)\n";
        }
        text += "request_route {\n";
        if self.limits_requests {
            text += "  if (src_ip != myself && !pike_check_req()) { exit; }\n";
        }
        if !self.limits_requests || self.variant != Variant::Ours {
            text += "  if (!t_newtran()) { sl_reply_error(); exit; }\n";
        }
        text += "  if (method == \"PUBLISH\") { handle_publish(); }\n  \
                 else if (method == \"SUBSCRIBE\") { handle_subscribe(); }\n  t_release();\n}\n";
        text
    }

    /// Replies with the headers that presence's replies have, and NOTIFYs with
    /// the headers and the size of presence's.
    fn floor_route(&self, port: u16) -> String {
        let notify = format!(
            "$uac_req(method) = \"NOTIFY\"; $uac_req(hdrs) = \"Event: message-summary\\r\\n\
             Contact: <sip:127.0.0.1:{port}>\\r\\nSubscription-State: active;expires=3600\\r\\n"
        );
        let (load, watchers) = self.fan_out.unwrap_or((0, 0));
        format!(
            "request_route {{
  if (!t_newtran()) {{ sl_reply_error(); exit; }}
  if (method == \"PUBLISH\") {{
    append_to_reply(\"Expires: 3600\\r\\nSIP-ETag: a.1700000000.10000.1.0\\r\\n\");
    t_reply(\"200\", \"OK\");
    $var(i) = 0;
    while ($var(i) < {watchers}) {{
      {notify}Content-Type: application/simple-message-summary\\r\\n\"; $uac_req(body) = $rb;
      $uac_req(ruri) = $_s(sip:w$var(i)@127.0.0.1:{load});
      $uac_req(turi) = $_s(sip:w$var(i)@bench.test); $uac_req(furi) = $tu;
      $uac_req(callid) = $_s(w$var(i).1);
      uac_req_send();
      $var(i) = $var(i) + 1;
    }}
  }} else {{
    append_to_reply(\"Expires: 3600\\r\\nContact: <sip:127.0.0.1:{port}>\\r\\n\");
    t_reply(\"200\", \"OK\");
    {notify}\"; $uac_req(body) = \"\";
    $uac_req(ruri) = $(ct{{nameaddr.uri}}); $uac_req(turi) = $fu; $uac_req(furi) = $tu;
    $uac_req(callid) = $ci;
    uac_req_send();
  }}
  t_release();
}}
"
        )
    }
}
