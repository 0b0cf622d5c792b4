//! Presentity and watcher identity: which URIs are the same person. Whoever
//! compares users or hosts does it with what is here: [`identity`] and
//! [`same_user`] say who is the same, [`spellings`] where a database has them.

pub mod user;

use crate::presence::request::UriParts;

/// ASCII comparison without case.
pub fn eq_ignore_case(one: &[u8], other: &[u8]) -> bool {
    one.eq_ignore_ascii_case(other)
}

/// How the user part of a URI is compared (`sip_uri_match`, manual 3.33). The
/// host is always compared without case (RFC 3261 19.1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UserCase {
    /// Users that differ in case are different people.
    #[default]
    Sensitive,
    /// Case does not matter.
    Insensitive,
}

/// `sip:user@host`, or `sip:host` without a user: scheme, port, password and
/// parameters are no part of the identity.
pub fn presentity_uri(user: &[u8], host: &[u8]) -> Vec<u8> {
    let mut uri = Vec::with_capacity(5 + user.len() + host.len());
    uri.extend_from_slice(b"sip:");
    if !user.is_empty() {
        uri.extend_from_slice(user);
        uri.push(b'@');
    }
    uri.extend_from_slice(host);
    uri
}

/// Splits `[scheme:]user[:password]@host[:port][;params]` into user and host; a
/// number of `tel:` is a user without a host, as for Kamailio's parser.
pub fn split(uri: &[u8]) -> (&[u8], &[u8]) {
    let (scheme, rest) = match uri.iter().position(|b| *b == b':') {
        Some(at) if is_scheme(&uri[..at]) => (&uri[..at], &uri[at + 1..]),
        _ => (&b""[..], uri),
    };
    if eq_ignore_case(scheme, b"tel") {
        return (up_to(rest, b";?>"), b"");
    }
    let (user, host) = match rest.iter().position(|b| *b == b'@') {
        Some(at) => (up_to(&rest[..at], b":"), &rest[at + 1..]),
        None => (&b""[..], rest),
    };
    let host = match host.iter().position(|b| *b == b']') {
        Some(end) if host.first() == Some(&b'[') => &host[..=end],
        _ => up_to(host, b":;?>@"),
    };
    (user, host)
}

/// What comes before one of these.
fn up_to<'a>(text: &'a [u8], ends: &[u8]) -> &'a [u8] {
    text.split(|byte| ends.contains(byte)).next().unwrap_or(text)
}

/// User and host of `sip:user@host[:port]` in its plainest form: letters,
/// digits, dots, dashes and underscores. `None` for anything else, which may be
/// a URI as well.
pub fn plain(uri: &[u8]) -> Option<UriParts<'_>> {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let rest = uri.strip_prefix(b"sip:")?;
    let at = rest.iter().position(|byte| !is_plain(byte)).filter(|at| *at > 0)?;
    let (user, rest) = rest.split_at(at);
    let rest = rest.strip_prefix(b"@")?;
    let end = rest.iter().position(|byte| !is_plain(byte)).unwrap_or(rest.len());
    let (host, port) = rest.split_at(end);
    let port_is_plain = match port.strip_prefix(b":") {
        Some(digits) => {
            let number = |sum: u32, digit: &u8| sum * 10 + u32::from(digit - b'0');
            (1..=5).contains(&digits.len())
                && digits.iter().all(u8::is_ascii_digit)
                && digits.iter().fold(0, number) <= u32::from(u16::MAX)
        }
        None => port.is_empty(),
    };
    let edges = host.first().zip(host.last())?;
    (port_is_plain && edges.0.is_ascii_alphanumeric() && edges.1.is_ascii_alphanumeric())
        .then_some(UriParts { user, host })
}

/// Whether this is a SIP or SIPS URI that can be put between the brackets of a
/// Contact: `sip:[user@]host[:port][;parameters][?headers]`.
pub fn is_sip(uri: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>' | b'"');
    let mut halves = uri.splitn(2, |byte| *byte == b':');
    let (Some(scheme), Some(rest)) = (halves.next(), halves.next()) else { return false };
    if !(eq_ignore_case(scheme, b"sip") || eq_ignore_case(scheme, b"sips"))
        || !rest.iter().all(is_plain)
    {
        return false;
    }
    let rest = match rest.iter().position(|byte| *byte == b'@') {
        Some(0) => return false,
        Some(at) => rest.get(at + 1..).unwrap_or_default(),
        None => rest,
    };
    let end = rest.iter().position(|byte| b";?".contains(byte)).unwrap_or(rest.len());
    let place = rest.get(..end).unwrap_or_default();
    let host_end = match place.first() {
        Some(b'[') => place.iter().position(|byte| *byte == b']').map(|at| at + 1),
        _ => place.iter().position(|byte| *byte == b':'),
    };
    let (host, port) = place.split_at(host_end.unwrap_or(place.len()));
    let is_host = match host {
        [b'[', address @ .., b']'] => {
            let is = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
            address.len() > 1 && address.iter().all(is)
        }
        name => {
            let is = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            !name.is_empty() && name.iter().all(is)
        }
    };
    let is_port = match port.strip_prefix(b":") {
        None => port.is_empty(),
        Some(digits) => std::str::from_utf8(digits).is_ok_and(|digits| {
            digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok()
        }),
    };
    is_host && is_port
}

fn is_scheme(text: &[u8]) -> bool {
    [&b"sip"[..], b"sips", b"pres", b"tel"].iter().any(|s| eq_ignore_case(text, s))
}

/// The key under which a presentity or a watcher is known: equal for equal
/// identities, and for no others.
pub fn identity(user: &[u8], host: &[u8], case: UserCase) -> Vec<u8> {
    let mut key = Vec::with_capacity(user.len() + host.len() + 1);
    let user = user::resolved(user);
    key.extend_from_slice(&user);
    if case == UserCase::Insensitive {
        key.make_ascii_lowercase();
    }
    key.push(b'@');
    let start = key.len();
    key.extend_from_slice(host);
    key[start..].make_ascii_lowercase();
    key
}

/// The two are the user of one identity at one host.
pub fn same_user(one: &[u8], other: &[u8], case: UserCase) -> bool {
    let same = |one: &[u8], other: &[u8]| match case {
        UserCase::Sensitive => one == other,
        UserCase::Insensitive => eq_ignore_case(one, other),
    };
    if !one.contains(&b'%') && !other.contains(&b'%') {
        return same(one, other);
    }
    same(&user::resolved(one), &user::resolved(other))
}

/// The URIs under which a database may have somebody.
pub fn spellings(user: &[u8], host: &[u8]) -> Vec<Vec<u8>> {
    user::spellings(user).iter().map(|user| presentity_uri(user, host)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_uris_are_split_and_others_left_alone() {
        for (uri, user, host) in [
            ("sip:a@b", "a", "b"),
            ("sip:a.b-c_1@example.org:5060", "a.b-c_1", "example.org"),
            ("sip:a@192.0.2.1:65535", "a", "192.0.2.1"),
        ] {
            let found = plain(uri.as_bytes()).map(|parts| (parts.user, parts.host));
            assert_eq!(found, Some((user.as_bytes(), host.as_bytes())), "{uri}");
        }
        for uri in [
            "",
            "sip:",
            "sip:b",
            "sip:@b",
            "sip:a@",
            "sip:a@:5060",
            "sip:a@b:",
            "sip:a@b:x",
            "sip:a@b:65536",
            "sip:a@b:000080",
            "sip:a@b;x",
            "sip:a@b?x",
            "sip:a:p@b",
            "sip:a@.b",
            "sip:a@b.",
            "sips:a@b",
            "SIP:a@b",
            "sip:a@b@c",
            "sip:a@[::1]",
            "sip:%61@b",
            "sip:a@b ",
            "sip:a b@c",
        ] {
            assert_eq!(plain(uri.as_bytes()), None, "{uri}");
        }
    }

    #[test]
    fn an_address_of_ours_is_a_sip_uri() {
        for uri in [
            "sip:10.0.0.1",
            "SIP:h",
            "sips:a.b@example.org:5061;transport=tcp;lr?x=y",
            "sip:[::1]:5060",
            "sip:a;b=c@h;p=\u{27}q\u{27}",
            "sip:pa@kam_1:5060",
        ] {
            assert!(is_sip(uri.as_bytes()), "{uri}");
        }
        for text in [
            "",
            "10.0.0.1",
            "10.0.0.1:5060",
            "example.org",
            "sip:",
            "sip:@h",
            "sip:a@",
            "sip:a@:5060",
            "sip::5060",
            "sip:h:",
            "sip:h:port",
            "sip:h:65536",
            "sip:h:+80",
            "sip:[::1",
            "sip:[]",
            "sip:a@b@c",
            "<sip:h>",
            "sip:h>",
            "sip:h x",
            "sip:h\r\nX: y",
            "http://h",
            "tel:+49301",
            "udp:10.0.0.1:5060",
        ] {
            assert!(!is_sip(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn hosts_are_compared_without_case_and_users_as_configured() {
        let key = |user: &str, case| identity(user.as_bytes(), b"Example.ORG", case);
        assert_eq!(key("bob", UserCase::Sensitive), b"bob@example.org");
        assert_ne!(key("Bob", UserCase::Sensitive), key("bob", UserCase::Sensitive));
        assert_eq!(key("Bob", UserCase::Insensitive), key("bob", UserCase::Insensitive));
    }

    #[test]
    fn a_uri_without_user_has_no_at_sign() {
        assert_eq!(presentity_uri(b"", b"example.org"), b"sip:example.org");
        assert_eq!(presentity_uri(b"a", b"b"), b"sip:a@b");
    }

    #[test]
    fn splitting_drops_everything_else() {
        for (uri, user, host) in [
            ("sip:a@b:5060;transport=tcp", "a", "b"),
            ("sips:b", "", "b"),
            ("a@[::1]:5060", "a", "[::1]"),
            ("sip:a:secret@b?x", "a", "b"),
            ("pres:a@b", "a", "b"),
            ("SIPS:a%2Bb@B", "a%2Bb", "B"),
            ("a@b@c", "a", "b"),
            ("tel:+123;phone-context=x", "+123", ""),
            ("sip:+123@", "+123", ""),
        ] {
            assert_eq!(split(uri.as_bytes()), (user.as_bytes(), host.as_bytes()), "{uri}");
        }
    }

    proptest! {
        #[test]
        fn all_readers_of_a_uri_agree(user in "[a-z0-9+%._-]{1,6}", host in "[A-Z0-9a-z.-]{1,6}") {
            let uri = format!("sip:{user}@{host}:5060");
            if let Some(parts) = plain(uri.as_bytes()) {
                prop_assert_eq!((parts.user, parts.host), split(uri.as_bytes()));
            }
            for user in [user.as_bytes(), b""] {
                for host in [host.as_bytes(), b"[::1]"] {
                    let uri = presentity_uri(user, host);
                    prop_assert_eq!(split(&uri), (user, host));
                }
            }
            let uri = presentity_uri(user.as_bytes(), b"");
            prop_assert_eq!(split(&uri), (user.as_bytes(), &b""[..]));
        }

        #[test]
        fn one_identity_whatever_else_a_uri_says(
            user in "[a-z0-9+._-]{1,6}",
            scheme in prop::sample::select(&["sip", "sips", "pres", "SIP", "Sips"][..]),
            rest in prop::sample::select(&["", ":5061", ";transport=tcp", ":1;x=y?z=a", ">"][..]),
            password in prop::sample::select(&["", ":secret"][..]),
            host in prop::sample::select(&["ex.org", "EX.ORG", "eX.oRg"][..]),
        ) {
            let uri = format!("{scheme}:{user}{password}@{host}{rest}");
            let (found, at) = split(uri.as_bytes());
            let expected = identity(user.as_bytes(), b"ex.org", UserCase::Sensitive);
            prop_assert_eq!(identity(found, at, UserCase::Sensitive), expected);
        }

        #[test]
        fn any_bytes_are_split(uri: Vec<u8>) {
            let (user, host) = split(&uri);
            let _ = (identity(user, host, UserCase::Insensitive), spellings(user, host));
        }
    }

    #[test]
    fn a_database_is_asked_for_every_spelling_of_one_user() {
        let all = spellings(b"*5%3A", b"Ex.org");
        assert!(all.len() > 1);
        assert_eq!(all.first().map(Vec::as_slice), Some(&b"sip:*5%3A@Ex.org"[..]));
        for uri in all {
            let (user, host) = split(&uri);
            assert!(same_user(user, b"*5:", UserCase::Sensitive) && host == b"Ex.org");
        }
        assert_eq!(spellings(b"alice", b"h"), [b"sip:alice@h"]);
    }
}
