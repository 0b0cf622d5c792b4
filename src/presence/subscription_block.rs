//! The text of a subscription as it is kept: smaller than a packed block, for
//! most of a subscription's users and hosts are those of its presentity.

use crate::presence::subscription::Text;
use crate::presence::text::{Fields, Packed, SAME, WORTH_SHARING};

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
    let packed = Packed::<Text>::new(packed);
    let mut block = Vec::with_capacity(packed.block().len() + COUNT);
    block.resize(COUNT, 0);
    for field in Text::ALL {
        let text = packed.get(*field);
        let code = match packed.same(*field) {
            _ if stands_alone(*field) || text.len() < WORTH_SHARING => None,
            _ if text == owner.user => Some(USER),
            _ if text == owner.host => Some(HOST),
            same => same.map(|earlier| FIELD + earlier),
        };
        let code = code.unwrap_or_else(|| match u8::try_from(text.len()) {
            Ok(length) if length <= LONGEST => length,
            // A packed block is shorter than that.
            _ => {
                block.extend_from_slice(&(text.len() as u16).to_le_bytes());
                LONG
            }
        });
        if code <= LONG {
            block.extend_from_slice(text);
        }
        block[field.index()] = code;
    }
    block
}

/// The packed block that `shrink` was given, with the same owner.
pub fn expand(block: &[u8], owner: Owner<'_>) -> Vec<u8> {
    let (codes, mut rest) = block.split_first_chunk::<COUNT>().unwrap_or((&[0; COUNT], b""));
    let mut ends = [[0; 2]; COUNT];
    let mut packed =
        Vec::with_capacity(2 * COUNT + rest.len() + owner.user.len() + owner.host.len());
    packed.resize(2 * COUNT, 0);
    let (mut user, mut host) = (None, None);
    // Texts that follow each other are copied together.
    let (mut run, mut end) = (0, 0);
    for (number, (code, place)) in codes.iter().zip(&mut ends).enumerate() {
        let entry = if *code <= LONGEST {
            run += usize::from(*code);
            end += usize::from(*code);
            end as u16
        } else if *code >= FIELD {
            SAME | u16::from(*code - FIELD)
        } else if *code == LONG {
            packed.extend_from_slice(take(&mut rest, run));
            run = long(take(&mut rest, 2));
            end += run;
            end as u16
        } else {
            let (first, text) = match *code {
                USER => (&mut user, owner.user),
                _ => (&mut host, owner.host),
            };
            match first {
                Some(earlier) => *earlier,
                None => {
                    packed.extend_from_slice(take(&mut rest, run));
                    run = 0;
                    packed.extend_from_slice(text);
                    *first = Some(SAME | number as u16);
                    end += text.len();
                    end as u16
                }
            }
        };
        *place = entry.to_le_bytes();
    }
    packed.extend_from_slice(take(&mut rest, run));
    packed[..2 * COUNT].copy_from_slice(ends.as_flattened());
    packed
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

fn take<'a>(rest: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at_checked(count).unwrap_or((rest, b""));
    *rest = left;
    taken
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail loudly")]
    use super::*;
    use crate::presence::text::pack;
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
