//! Where a NOTIFY goes first, as far as its URI says so: over which connection
//! that only the watcher can open, or in a datagram.

use crate::presence::uri::eq_ignore_case;

/// Bytes of SIP that fit into a datagram over IPv4.
pub const DATAGRAM: usize = 65_507;

/// How the next hop is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way<'a> {
    /// Over a connection from this numeric address and port. It is the watcher's: it
    /// cannot be opened from here (RFC 7118 5; `;alias=` of a connection names a
    /// port behind which nobody listens).
    Connection {
        /// Numeric address, without brackets.
        host: &'a [u8],
        /// Its port.
        port: u16,
    },
    /// In datagrams.
    Datagram,
    /// The URI does not say.
    Open,
}

/// Numbers of transports in `;alias=`, as Kamailio's core counts them.
const UDP: u8 = 1;
const CONNECTIONS: [u8; 4] = [2, 3, 5, 6];

/// The way to the next hop. `route`: the first URI of the route set, which decides if
/// there is one. `alias`: what begins the parameter with the address that a
/// request came from (`;alias=`).
pub fn way<'a>(route: Option<&'a [u8]>, contact: &'a [u8], alias: &[u8]) -> Way<'a> {
    match route {
        Some(route) => of_uri(route),
        None => of_alias(contact, alias).unwrap_or_else(|| of_uri(contact)),
    }
}

/// `;alias=address~port~transport`.
fn of_alias<'a>(uri: &'a [u8], alias: &[u8]) -> Option<Way<'a>> {
    // Most have no parameters at all.
    uri.contains(&b';').then_some(())?;
    let at = uri.windows(alias.len().max(1)).rposition(|part| part == alias)?;
    let value = &uri[at + alias.len()..];
    let mut parts = value.split(|byte| *byte == b';').next()?.split(|byte| *byte == b'~');
    let (host, port, transport) = (parts.next()?, parts.next()?, parts.next()?);
    let &[digit] = transport else { return None };
    let way = match digit.wrapping_sub(b'0') {
        UDP => Way::Datagram,
        transport if CONNECTIONS.contains(&transport) => {
            Way::Connection { host: bare(host), port: number(port)? }
        }
        _ => Way::Open,
    };
    parts.next().is_none().then_some(way)
}

fn of_uri(uri: &[u8]) -> Way<'_> {
    let Some(rest) = without_scheme(uri) else { return Way::Open };
    // A user may have `;` and `?` in it.
    let rest = rest.iter().position(|byte| *byte == b'@').map_or(rest, |at| &rest[at + 1..]);
    let end = rest.iter().position(|byte| matches!(byte, b';' | b'?')).unwrap_or(rest.len());
    let (authority, parameters) = rest.split_at(end);
    let transport = transport(parameters);
    let (host, port) = match authority.iter().rposition(|byte| *byte == b':') {
        Some(at) if authority.last() != Some(&b']') => {
            (&authority[..at], number(&authority[at + 1..]))
        }
        _ => (authority, None),
    };
    let host = bare(host);
    let is_secure = uri.get(..5).is_some_and(|scheme| eq_ignore_case(scheme, b"sips:"));
    let over_connection = |default| {
        // Names are left to the resolver.
        match is_address(host) {
            true => Way::Connection { host, port: port.unwrap_or(default) },
            false => Way::Open,
        }
    };
    match transport {
        Some(ws) if eq_ignore_case(ws, b"ws") => over_connection(80),
        Some(wss) if eq_ignore_case(wss, b"wss") => over_connection(443),
        Some(udp) if eq_ignore_case(udp, b"udp") => Way::Datagram,
        // A name may be resolved to another transport.
        None if !is_secure && is_address(host) => Way::Datagram,
        _ => Way::Open,
    }
}

/// The transport that a URI's parameters name.
fn transport(parameters: &[u8]) -> Option<&[u8]> {
    if !parameters.starts_with(b";") {
        return None;
    }
    let parameters = parameters.split(|byte| *byte == b'?').next()?;
    parameters.split(|byte| *byte == b';').find_map(|parameter| {
        let (name, value) = parameter.split_at(parameter.iter().position(|b| *b == b'=')?);
        eq_ignore_case(name, b"transport").then(|| &value[1..])
    })
}

/// Not a name. (What only looks like an address is not found anywhere.)
fn is_address(host: &[u8]) -> bool {
    let is_v4 = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
    !host.is_empty() && (host.iter().all(is_v4) || host.contains(&b':'))
}

fn without_scheme(uri: &[u8]) -> Option<&[u8]> {
    [&b"sip:"[..], b"sips:"].iter().find_map(|scheme| {
        let begins = uri.get(..scheme.len()).is_some_and(|start| eq_ignore_case(start, scheme));
        begins.then(|| &uri[scheme.len()..])
    })
}

/// Without the brackets of IPv6.
fn bare(host: &[u8]) -> &[u8] {
    host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]")).unwrap_or(host)
}

fn number(digits: &[u8]) -> Option<u16> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact(uri: &str) -> Way<'_> {
        way(None, uri.as_bytes(), b";alias=")
    }

    fn connection(host: &str, port: u16) -> Way<'_> {
        Way::Connection { host: host.as_bytes(), port }
    }

    #[test]
    fn connections_that_only_the_watcher_can_open() {
        for (uri, host, port) in [
            ("sip:x@192.0.2.1:5066;transport=ws", "192.0.2.1", 5066),
            ("SIP:x@192.0.2.1;a;Transport=WS;b=c", "192.0.2.1", 80),
            ("sips:x;y@[2001:db8::1];transport=wss", "2001:db8::1", 443),
            ("sip:x@abc.invalid;transport=ws;alias=192.0.2.1~40001~5", "192.0.2.1", 40001),
            ("sip:x@10.0.0.9;alias=192.0.2.1~40001~2", "192.0.2.1", 40001),
            ("sip:x@10.0.0.9;alias=[2001:db8::1]~40001~3;ob", "2001:db8::1", 40001),
        ] {
            assert_eq!(contact(uri), connection(host, port), "{uri}");
        }
    }

    #[test]
    fn everything_else_can_be_tried() {
        for uri in [
            "",
            "x",
            "tel:+49;transport=ws",
            "sip:x@abc.invalid;transport=ws",
            "sip:x@192.0.2.1;transport=tcp",
            "sips:x@192.0.2.1",
            "sip:x@example.org",
            "sip:x@example.org;alias=192.0.2.1~70000~2",
            "sip:x@example.org;alias=192.0.2.1~5060",
            "sip:x@example.org;alias=192.0.2.1~5060~22",
            "sip:x@example.org;alias=192.0.2.1~5060~4",
            "sip:x@example.org?transport=ws",
            "sip:x;transport=ws@example.org",
        ] {
            assert_eq!(contact(uri), Way::Open, "{uri}");
        }
        for uri in ["sip:x@192.0.2.1", "sip:192.0.2.1:5070;transport=UDP", "sip:x@[::1]:5060"] {
            assert_eq!(contact(uri), Way::Datagram, "{uri}");
        }
        assert_eq!(contact("sip:x@h;alias=192.0.2.1~5060~1"), Way::Datagram);
    }

    #[test]
    fn a_route_decides() {
        let uri = b"sip:x@10.0.0.9;alias=192.0.2.1~40001~2";
        assert_eq!(way(Some(b"sip:192.0.2.7;lr"), uri, b";alias="), Way::Datagram);
        let edge = b"sip:192.0.2.7:8080;transport=ws;lr";
        assert_eq!(way(Some(edge), uri, b";alias="), connection("192.0.2.7", 8080));
    }

    #[test]
    fn an_alias_may_have_another_name() {
        assert_eq!(way(None, b"sip:x@h;from=192.0.2.1~9~5", b";from="), connection("192.0.2.1", 9));
    }
}
