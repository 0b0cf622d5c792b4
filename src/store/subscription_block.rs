//! The text of a subscription as it is kept: smaller than a packed block, for
//! most of a subscription's users and hosts are those of its presentity.

use crate::presence::subscription::Text;
use crate::presence::text::{Fields, Packed, SAME, WORTH_SHARING, pack, take};

/// User and host of a presentity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Owner<'a> {
    /// User, as first spelled.
    pub user: &'a [u8],
    /// Host, in lower case.
    pub host: &'a [u8],
}

const COUNT: usize = Text::COUNT;

/// For each field there is a code: up to this the length of its text, which
/// stands behind the codes, in order.
const LONGEST: u8 = 0xBF;
/// The text begins with its length, in two bytes.
const LONG: u8 = 0xC0;
/// The user of the presentity.
const USER: u8 = 0xC1;
/// Its host.
const HOST: u8 = 0xC2;
/// From here on: the text of the field whose number follows.
const FIELD: u8 = 0xC8;

/// Fields that always have a text of their own, so that they can be read without
/// the presentity.
fn stands_alone(field: Text) -> bool {
    match field {
        Text::CallId
        | Text::FromTag
        | Text::ToTag
        | Text::Contact
        | Text::LocalContact
        | Text::Socket
        | Text::EventId
        | Text::Reason => true,
        Text::PresentityUser
        | Text::PresentityHost
        | Text::ToUser
        | Text::ToHost
        | Text::FromUser
        | Text::FromHost
        | Text::WatcherUser
        | Text::WatcherHost
        | Text::RecordRoute
        | Text::UserAgent => false,
    }
}

/// Makes a packed block of `Text` as small as it is kept.
pub fn shrink(packed: &[u8], owner: Owner<'_>) -> Vec<u8> {
    let mut block = Vec::with_capacity(packed.len());
    let mut codes = [0; COUNT];
    block.extend_from_slice(&codes);
    let fields = Text::ALL.iter().zip(Packed::<Text>::new(packed).fields());
    for (number, (field, (text, same))) in fields.enumerate() {
        let shared = match same.map(usize::from) {
            _ if stands_alone(*field) => None,
            Some(earlier) => match codes.get(earlier) {
                Some(&(USER | HOST)) => codes.get(earlier).copied(),
                _ => Some(FIELD + earlier as u8),
            },
            None if text.len() < WORTH_SHARING => None,
            None if text == owner.user => Some(USER),
            None if text == owner.host => Some(HOST),
            None => None,
        };
        codes[number] = shared.unwrap_or_else(|| {
            let code = match u8::try_from(text.len()) {
                Ok(length) if length <= LONGEST => length,
                // A packed block is shorter than two bytes can tell.
                _ => {
                    block.extend_from_slice(&(text.len() as u16).to_le_bytes());
                    LONG
                }
            };
            block.extend_from_slice(text);
            code
        });
    }
    block[..COUNT].copy_from_slice(&codes);
    block
}

/// The packed block that `shrink` was given, with the same owner.
pub fn expand(block: &[u8], owner: Owner<'_>) -> Vec<u8> {
    let (codes, own) = block.split_first_chunk::<COUNT>().unwrap_or((&[0; COUNT], b""));
    let mut entries = [[0; 2]; COUNT];
    // Where user and host come between the texts of its own, and what their
    // fields' later namesakes say.
    let (mut user, mut host) = ((usize::MAX, 0), (usize::MAX, 0));
    let (mut end, mut inserted) = (0, 0);
    for (number, (code, entry)) in codes.iter().zip(&mut entries).enumerate() {
        *entry = if *code <= LONGEST {
            end += usize::from(*code);
            end as u16
        } else if *code >= FIELD {
            SAME | u16::from(*code - FIELD)
        } else if *code == LONG {
            return expand_long(block, owner);
        } else {
            let (place, length) = match *code {
                USER => (&mut user, owner.user.len()),
                _ => (&mut host, owner.host.len()),
            };
            if place.0 == usize::MAX {
                *place = (end - inserted, SAME | number as u16);
                (end, inserted) = (end + length, inserted + length);
                end as u16
            } else {
                place.1
            }
        }
        .to_le_bytes();
    }
    let mut packed = Vec::with_capacity(2 * COUNT + own.len() + inserted);
    packed.extend_from_slice(entries.as_flattened());
    let mut texts = [(user, owner.user), (host, owner.host)];
    if host.0 < user.0 || (host.0 == user.0 && host.1 < user.1) {
        texts.swap(0, 1);
    }
    let mut from = 0;
    for ((at, _), text) in texts {
        if let Some(before) = own.get(from..at) {
            packed.extend_from_slice(before);
            packed.extend_from_slice(text);
            from = at;
        }
    }
    packed.extend_from_slice(own.get(from..).unwrap_or_default());
    packed
}

/// Makes a complete block of one with long texts.
fn expand_long(block: &[u8], owner: Owner<'_>) -> Vec<u8> {
    // What came out of a packed block fits into one.
    pack::<Text>(|number| get(block, Text::ALL[number], owner)).unwrap_or_default()
}

/// One field of a kept block.
pub fn get<'a>(block: &'a [u8], field: Text, owner: Owner<'a>) -> &'a [u8] {
    let Some((codes, rest)) = block.split_first_chunk::<COUNT>() else { return b"" };
    let mut number = field.index();
    if let Some(earlier) = codes.get(number).and_then(|code| code.checked_sub(FIELD)) {
        number = usize::from(earlier).min(number);
    }
    let (before, code) = match codes.get(number) {
        // Most have no reason, and that is asked for most.
        None | Some(0) => return b"",
        Some(&USER) => return owner.user,
        Some(&HOST) => return owner.host,
        Some(code) => (codes.get(..number).unwrap_or_default(), *code),
    };
    let mut start = 0;
    for code in before {
        if *code <= LONGEST {
            start += usize::from(*code);
        } else if *code == LONG {
            start += 2 + long(rest.get(start..start + 2).unwrap_or_default());
        }
    }
    let mut rest = rest.get(start..).unwrap_or_default();
    match code {
        LONG => {
            let length = long(take(&mut rest, 2));
            take(&mut rest, length)
        }
        length if length <= LONGEST => take(&mut rest, length.into()),
        _ => b"",
    }
}

fn long(length: &[u8]) -> usize {
    length.try_into().map(u16::from_le_bytes).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail loudly")]
    use super::*;
    use proptest::prelude::*;

    fn text() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            6 => "(alice|bob|example\\.org|h)".prop_map(String::into_bytes),
            3 => prop::collection::vec(any::<u8>(), 0..6),
            1 => prop::collection::vec(any::<u8>(), 180..600),
        ]
    }

    proptest! {
        #[test]
        fn any_block_comes_back(
            texts in prop::collection::vec(text(), Text::COUNT),
            user in "(alice|bob|h)?",
            host in "(example\\.org|h)?",
        ) {
            let owner = Owner { user: user.as_bytes(), host: host.as_bytes() };
            let packed = pack::<Text>(|n| &texts[n]).unwrap();
            let kept = shrink(&packed, owner);
            let expanded = expand(&kept, owner);
            for field in Text::ALL {
                let expected = texts[field.index()].as_slice();
                prop_assert_eq!(Packed::new(&expanded).get(*field), expected);
                prop_assert_eq!(get(&kept, *field, owner), expected);
                if stands_alone(*field) {
                    prop_assert_eq!(get(&kept, *field, Owner::default()), expected);
                }
            }
            prop_assert_eq!(shrink(&expanded, owner), kept);
        }

        #[test]
        fn strange_blocks_are_read_somehow(bytes: Vec<u8>) {
            let owner = Owner { user: b"alice", host: b"h" };
            expand(&bytes, owner);
            for field in Text::ALL {
                get(&bytes, *field, owner);
            }
        }
    }

    #[test]
    fn a_usual_block_is_small() {
        let packed = pack::<Text>(|n| match Text::ALL[n] {
            Text::PresentityUser | Text::ToUser => b"alice",
            Text::FromUser | Text::WatcherUser => b"bob",
            Text::PresentityHost | Text::ToHost | Text::FromHost | Text::WatcherHost => {
                b"example.org"
            }
            Text::CallId => b"call",
            _ => b"",
        });
        let owner = Owner { user: b"alice", host: b"example.org" };
        assert_eq!(shrink(&packed.unwrap(), owner).len(), Text::COUNT + 3 + 4);
    }
}
