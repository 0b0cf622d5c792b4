//! The user part of a URI and its escapes. `park%2B5900` and `park+5900` are
//! one user (B46): escapes are resolved, once, before users are compared. RFC
//! 3261 19.1.4 demands it for characters that need no escape; we do it for all,
//! since keys that park or forward a call are published in either spelling.

use std::borrow::Cow;

/// In front of what is compared as it is spelled: no resolved user begins so.
const AS_SPELLED: u8 = 0;

/// What two spellings of one user have in common. A user with a malformed
/// escape (`%zz`, `%2`, `%00`) is compared as it is spelled.
pub fn resolved(user: &[u8]) -> Cow<'_, [u8]> {
    if !user.contains(&b'%') && !user.contains(&0) {
        return Cow::Borrowed(user);
    }
    match unescape(user, |_| true) {
        Some(resolved) => Cow::Owned(resolved),
        None => Cow::Owned([&[AS_SPELLED], user].concat()),
    }
}

/// The user as it is stored and sent: as in the request, but that escapes which
/// nothing needs (`%61lice`) are resolved. So one of few spellings is stored.
pub fn stored(user: &[u8]) -> Cow<'_, [u8]> {
    if !user.contains(&b'%') {
        return Cow::Borrowed(user);
    }
    unescape(user, is_unreserved).map_or(Cow::Borrowed(user), Cow::Owned)
}

/// The spellings in which a database may have the user, the given one first:
/// just that for a user of letters, digits and marks. Otherwise with all
/// special characters escaped, with those that have to be, and with none.
/// Mixtures of these are not among them.
pub fn spellings(user: &[u8]) -> Vec<Vec<u8>> {
    let given = stored(user);
    let Some(plain) = unescape(user, |_| true) else { return vec![given.into_owned()] };
    if plain.iter().all(|byte| is_unreserved(*byte)) {
        return vec![given.into_owned()];
    }
    let mut all = vec![given.into_owned()];
    for stays in [cannot_be_misread, needs_no_escape, is_unreserved] {
        for digits in [b"0123456789ABCDEF", b"0123456789abcdef"] {
            let spelled = escape(&plain, stays, digits);
            if !all.contains(&spelled) {
                all.push(spelled);
            }
        }
    }
    all
}

/// Resolves the escapes of these characters; `None` if one is malformed.
fn unescape(user: &[u8], of: impl Fn(u8) -> bool) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(user.len());
    let mut rest = user;
    while let Some((first, behind)) = rest.split_first() {
        if *first == 0 {
            return None;
        }
        if *first != b'%' {
            plain.push(*first);
            rest = behind;
            continue;
        }
        let (digits, behind) = behind.split_first_chunk::<2>()?;
        let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
        let byte = u8::try_from(high? * 16 + low?).ok().filter(|byte| *byte != 0)?;
        match of(byte) {
            true => plain.push(byte),
            false => plain.extend_from_slice(rest.get(..3)?),
        }
        rest = behind;
    }
    Some(plain)
}

fn escape(plain: &[u8], stays: impl Fn(u8) -> bool, digits: &[u8; 16]) -> Vec<u8> {
    let mut spelled = Vec::with_capacity(plain.len() + 4);
    for byte in plain {
        if stays(*byte) {
            spelled.push(*byte);
        } else {
            let digit = |half: u8| digits.get(usize::from(half)).copied().unwrap_or_default();
            spelled.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    spelled
}

/// `unreserved` of RFC 3261 25.1.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.!~*'()".contains(&byte)
}

/// What a user part may have unescaped (RFC 3261 25.1).
fn needs_no_escape(byte: u8) -> bool {
    is_unreserved(byte) || b"&=+$,;?/".contains(&byte)
}

/// What is seen unescaped though it may not be, and is understood.
fn cannot_be_misread(byte: u8) -> bool {
    (byte.is_ascii_graphic() || byte >= 0x80) && !b"%@:<>\"\\".contains(&byte)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail loudly")]
    use super::*;
    use crate::presence::uri::{UserCase, identity, same_user};
    use proptest::prelude::*;

    fn key(user: &[u8]) -> Vec<u8> {
        identity(user, b"h", UserCase::Sensitive)
    }

    #[test]
    fn escapes_are_resolved_once() {
        let same = |one: &str, other: &str| {
            let same = key(one.as_bytes()) == key(other.as_bytes());
            for case in [UserCase::Sensitive, UserCase::Insensitive] {
                let users = same_user(one.as_bytes(), other.as_bytes(), case);
                assert_eq!(users, same, "{one} {other}");
            }
            same
        };
        for (one, other) in [
            ("park%2B5900", "park+5900"),
            ("park%2b5900", "park%2B5900"),
            ("%61lice", "alice"),
            ("a%40b", "a%40b"),
            ("%2a72%23", "*72#"),
            ("%C3%A9", "\u{e9}"),
            ("%zz", "%zz"),
        ] {
            assert!(same(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("a%2525", "a%25"),
            ("a%25", "a%2B"),
            ("a%zz", "a%25zz"),
            ("a%2", "a%252"),
            ("a%", "a%25"),
            ("a%00", "a"),
            ("a%00", "a%2500"),
            ("a%00b", "a"),
            ("a%%32%35", "a%2525"),
            ("a%zz%41", "a%zzA"),
            ("\0a%zz", "a%zz"),
            ("\0a%25zz", "a%zz"),
            ("", "%20"),
        ] {
            assert!(!same(one, other), "{one} {other}");
        }
    }

    #[test]
    fn what_is_stored_and_looked_for() {
        for (given, expected) in [
            ("alice", &["alice"][..]),
            ("%61lice", &["alice"]),
            ("a.b-c_d!~*'()", &["a.b-c_d!~*'()"]),
            ("a%2Eb", &["a.b"]),
            ("park+1", &["park+1", "park%2B1", "park%2b1"]),
            ("park%2B1", &["park%2B1", "park+1", "park%2b1"]),
            ("p%61rk%2b1", &["park%2b1", "park+1", "park%2B1"]),
            ("a%20b", &["a%20b"]),
            ("a%zz+", &["a%zz+"]),
            ("+1#", &["+1#", "+1%23", "%2B1%23", "%2b1%23"]),
        ] {
            let found: Vec<_> = spellings(given.as_bytes())
                .into_iter()
                .map(|one| String::from_utf8(one).unwrap())
                .collect();
            assert_eq!(found, expected, "{given}");
        }
    }

    /// They are on the way of every request.
    #[test]
    fn users_without_escapes_cost_no_memory() {
        for user in ["", "alice", "+49301", "a.b"] {
            assert!(matches!(resolved(user.as_bytes()), Cow::Borrowed(_)), "{user}");
            assert!(matches!(stored(user.as_bytes()), Cow::Borrowed(_)), "{user}");
        }
    }

    /// A user, and for each of its bytes how it is spelled.
    fn spelled() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        let byte = prop_oneof![3 => b'0'..=b'z', 2 => Just(b'%'), 2 => Just(b'+'), 1 => 1u8..];
        let one = (byte, 0u8..3).prop_map(|(byte, style)| {
            let spelled = match style {
                0 if byte != b'%' => vec![byte],
                1 => format!("%{byte:02x}").into_bytes(),
                _ => format!("%{byte:02X}").into_bytes(),
            };
            (byte, spelled)
        });
        prop::collection::vec(one, 0..8).prop_map(|all| {
            let (plain, spelled): (Vec<_>, Vec<_>) = all.into_iter().unzip();
            (plain, spelled.concat())
        })
    }

    proptest! {
        #[test]
        fn spellings_are_one_user_exactly_if_they_say_the_same(
            (one, one_spelled) in spelled(), (other, other_spelled) in spelled(),
        ) {
            prop_assert_eq!(key(&one_spelled) == key(&other_spelled), one == other);
            let same = same_user(&one_spelled, &other_spelled, UserCase::Sensitive);
            prop_assert_eq!(same, one == other);
            for spelling in spellings(&one_spelled) {
                prop_assert_eq!(key(&spelling), key(&one_spelled));
                prop_assert_eq!(&*stored(&spelling), &spelling[..]);
            }
            prop_assert!(spellings(&one_spelled).len() <= 7);
        }

        #[test]
        fn any_bytes_have_an_identity(one: Vec<u8>, other: Vec<u8>) {
            prop_assert_eq!(key(&stored(&one)), key(&one));
            let same = same_user(&one, &other, UserCase::Sensitive);
            prop_assert_eq!(key(&one) == key(&other), same);
            let folded = |user: &[u8]| identity(user, b"h", UserCase::Insensitive);
            let same = same_user(&one, &other, UserCase::Insensitive);
            prop_assert_eq!(folded(&one) == folded(&other), same);
            // A malformed one is nobody else.
            if resolved(&one).first() == Some(&0) && one != other {
                prop_assert_ne!(resolved(&one), resolved(&other));
            }
        }

        #[test]
        fn special_characters_are_found_in_any_spelling(
            letters in "[a-z0-9]{0,4}", special in prop::sample::select(&b"+&=$,;?/#"[..]),
            upper: bool, escaped: bool,
        ) {
            let spell = |escaped, upper: bool| match (escaped, upper) {
                (false, _) => format!("{letters}{}", char::from(special)),
                (true, true) => format!("{letters}%{special:02X}"),
                (true, false) => format!("{letters}%{special:02x}"),
            };
            let known = spellings(spell(escaped, upper).as_bytes());
            for (escaped, upper) in [(false, false), (true, false), (true, true)] {
                prop_assert!(known.contains(&spell(escaped, upper).into_bytes()));
            }
        }
    }
}
