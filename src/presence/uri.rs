//! Presentity and watcher identity: which URIs are the same person.

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

/// Splits `[scheme:]user@host[:port][;params]` into user and host.
pub fn split(uri: &[u8]) -> (&[u8], &[u8]) {
    let rest = match uri.iter().position(|b| *b == b':') {
        Some(at) if is_scheme(&uri[..at]) => &uri[at + 1..],
        _ => uri,
    };
    let (user, host) = match rest.iter().position(|b| *b == b'@') {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None => (&b""[..], rest),
    };
    let end = if host.first() == Some(&b'[') {
        host.iter().position(|b| *b == b']').map_or(host.len(), |at| at + 1)
    } else {
        host.iter().position(|b| b":;?>".contains(b)).unwrap_or(host.len())
    };
    (user, &host[..end])
}

fn is_scheme(text: &[u8]) -> bool {
    [&b"sip"[..], b"sips", b"pres", b"tel"].iter().any(|s| eq_ignore_case(text, s))
}

/// The key under which a presentity is stored: equal for equal identities.
pub fn identity(user: &[u8], host: &[u8], case: UserCase) -> Vec<u8> {
    let mut key = Vec::with_capacity(user.len() + host.len() + 1);
    match case {
        UserCase::Sensitive => key.extend_from_slice(user),
        UserCase::Insensitive => key.extend(user.to_ascii_lowercase()),
    }
    key.push(b'@');
    key.extend(host.iter().map(u8::to_ascii_lowercase));
    key
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("sip:a:secret@b?x", "a:secret", "b"),
        ] {
            assert_eq!(split(uri.as_bytes()), (user.as_bytes(), host.as_bytes()), "{uri}");
        }
    }
}
