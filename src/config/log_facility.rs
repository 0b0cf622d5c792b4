//! Syslog facilities (`local_log_facility`, manual 3.28).

/// A syslog facility that Kamailio's core knows by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogFacility {
    /// Its name, as the core spells it.
    pub name: &'static str,
    /// Its number, as syslog(3) takes it.
    pub number: i32,
}

const fn named(name: &'static str, number: i32) -> LogFacility {
    LogFacility { name, number }
}

const FACILITIES: &[LogFacility] = &[
    named("LOG_AUTH", libc::LOG_AUTH),
    named("LOG_CRON", libc::LOG_CRON),
    named("LOG_DAEMON", libc::LOG_DAEMON),
    named("LOG_KERN", libc::LOG_KERN),
    named("LOG_LOCAL0", libc::LOG_LOCAL0),
    named("LOG_LOCAL1", libc::LOG_LOCAL1),
    named("LOG_LOCAL2", libc::LOG_LOCAL2),
    named("LOG_LOCAL3", libc::LOG_LOCAL3),
    named("LOG_LOCAL4", libc::LOG_LOCAL4),
    named("LOG_LOCAL5", libc::LOG_LOCAL5),
    named("LOG_LOCAL6", libc::LOG_LOCAL6),
    named("LOG_LOCAL7", libc::LOG_LOCAL7),
    named("LOG_LPR", libc::LOG_LPR),
    named("LOG_MAIL", libc::LOG_MAIL),
    named("LOG_NEWS", libc::LOG_NEWS),
    named("LOG_USER", libc::LOG_USER),
    named("LOG_UUCP", libc::LOG_UUCP),
    named("LOG_AUTHPRIV", libc::LOG_AUTHPRIV),
    named("LOG_FTP", libc::LOG_FTP),
    named("LOG_SYSLOG", libc::LOG_SYSLOG),
];

impl LogFacility {
    /// The facility of that name, compared without case as the core does.
    pub fn parse(name: &[u8]) -> Option<LogFacility> {
        FACILITIES.iter().copied().find(|known| known.name.as_bytes().eq_ignore_ascii_case(name))
    }
}
