//! The text and the document of a publication in one block of bytes, as small as
//! can be: it is what most memory goes into.

use crate::presence::publication::RUID_PREFIX;
use crate::presence::text::{TooLong, push_hexadecimal};

/// What a block is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parts<'a> {
    /// Its current entity-tag.
    pub entity_tag: &'a [u8],
    /// Watcher URI of the publisher, not to be notified.
    pub sender: &'a [u8],
    /// Stable id across entity-tags (`ruid` column).
    pub ruid: &'a [u8],
    /// `id` of the first dialog of a dialog-info document.
    pub dialog_id: &'a [u8],
    /// The document, or nothing where it is kept elsewhere.
    pub body: &'a [u8],
}

/// A text begins with its length; these say something else.
const LONG: u8 = 0xFD;
/// 32 hexadecimal digits, as 16 bytes, then the rest of the text. Our
/// entity-tags are of this form.
const DIGITS: u8 = 0xFE;
/// `RUID_PREFIX` and 32 hexadecimal digits, as 16 bytes: our `ruid`s.
const RUID: u8 = 0xFF;

/// Packs a block.
pub fn pack(parts: &Parts<'_>) -> Result<Vec<u8>, TooLong> {
    let texts = [parts.entity_tag, parts.sender, parts.ruid, parts.dialog_id];
    let length: usize = texts.iter().map(|text| text.len() + 3).sum();
    let mut block = Vec::with_capacity(length + parts.body.len());
    push_text(&mut block, parts.entity_tag)?;
    push_plain(&mut block, parts.sender)?;
    push_text(&mut block, parts.ruid)?;
    push_plain(&mut block, parts.dialog_id)?;
    block.extend_from_slice(parts.body);
    Ok(block)
}

/// An entity-tag as a block has it at its start: no other tag looks the same.
pub fn packed_tag(entity_tag: &[u8]) -> Result<Vec<u8>, TooLong> {
    let mut packed = Vec::with_capacity(entity_tag.len() + 3);
    push_text(&mut packed, entity_tag)?;
    Ok(packed)
}

/// A block that `pack` has made.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a>(pub &'a [u8]);

impl<'a> Block<'a> {
    /// The block's tag is the one that `packed_tag` was given.
    pub fn has_tag(self, packed_tag: &[u8]) -> bool {
        self.0.starts_with(packed_tag)
    }

    /// Its entity-tag.
    pub fn entity_tag(self) -> Vec<u8> {
        self.text(0).to_vec()
    }

    /// Its sender.
    pub fn sender(self) -> &'a [u8] {
        self.text(1).plain()
    }

    /// Its `ruid`.
    pub fn ruid(self) -> Vec<u8> {
        self.text(2).to_vec()
    }

    /// Its dialog.
    pub fn dialog_id(self) -> &'a [u8] {
        self.text(3).plain()
    }

    /// Its document.
    pub fn body(self) -> &'a [u8] {
        let mut rest = self.0;
        for _ in 0..4 {
            take_text(&mut rest);
        }
        rest
    }

    fn text(self, number: usize) -> Stored<'a> {
        let mut rest = self.0;
        for _ in 0..number {
            take_text(&mut rest);
        }
        take_text(&mut rest)
    }
}

/// One text of a block.
#[derive(Debug, Clone, Copy, Default)]
struct Stored<'a> {
    prefix: &'static [u8],
    /// Shown as hexadecimal digits.
    digits: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Stored<'a> {
    /// Of what is never stored as digits.
    fn plain(self) -> &'a [u8] {
        self.rest
    }

    fn to_vec(self) -> Vec<u8> {
        let mut text =
            Vec::with_capacity(self.prefix.len() + 2 * self.digits.len() + self.rest.len());
        text.extend_from_slice(self.prefix);
        push_hexadecimal(&mut text, self.digits);
        text.extend_from_slice(self.rest);
        text
    }
}

fn push_text(block: &mut Vec<u8>, text: &[u8]) -> Result<(), TooLong> {
    if let Some((bytes, rest)) = from_digits(text) {
        block.push(DIGITS);
        block.extend_from_slice(&bytes);
        return push_plain(block, rest);
    }
    if let Some((bytes, b"")) = text.strip_prefix(RUID_PREFIX).and_then(from_digits) {
        block.push(RUID);
        block.extend_from_slice(&bytes);
        return Ok(());
    }
    push_plain(block, text)
}

fn push_plain(block: &mut Vec<u8>, text: &[u8]) -> Result<(), TooLong> {
    match u8::try_from(text.len()) {
        Ok(short) if short < LONG => block.push(short),
        _ => {
            let length = u16::try_from(text.len()).map_err(|_| TooLong)?;
            block.push(LONG);
            block.extend_from_slice(&length.to_le_bytes());
        }
    }
    block.extend_from_slice(text);
    Ok(())
}

/// The bytes that the 32 hexadecimal digits at a text's start stand for, and
/// what follows.
fn from_digits(text: &[u8]) -> Option<([u8; 16], &[u8])> {
    let (digits, rest) = text.split_at_checked(32)?;
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some((bytes, rest))
}

fn take_text<'a>(block: &mut &'a [u8]) -> Stored<'a> {
    let Some((code, rest)) = block.split_first() else { return Stored::default() };
    *block = rest;
    match *code {
        DIGITS => {
            let digits = take(block, 16);
            Stored { digits, ..take_text(block) }
        }
        RUID => Stored { prefix: RUID_PREFIX, digits: take(block, 16), rest: b"" },
        LONG => {
            let length = take(block, 2).try_into().map(u16::from_le_bytes).unwrap_or_default();
            Stored { rest: take(block, length.into()), ..Stored::default() }
        }
        short => Stored { rest: take(block, short.into()), ..Stored::default() },
    }
}

fn take<'a>(block: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = block.split_at_checked(count).unwrap_or((block, b""));
    *block = rest;
    taken
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail loudly")]
    use super::*;
    use proptest::prelude::*;

    fn text() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            4 => "[0-9a-f]{30,34}(\\.[0-9]{0,3})?".prop_map(String::into_bytes),
            4 => "pres-[0-9a-f]{31,33}".prop_map(String::into_bytes),
            2 => prop::collection::vec(any::<u8>(), 0..40),
            1 => prop::collection::vec(any::<u8>(), 250..300),
        ]
    }

    proptest! {
        #[test]
        fn any_parts_come_back(
            entity_tag in text(), other_tag in text(), ruid in text(),
            sender: Vec<u8>, dialog_id in "[a-z]{0,300}", body: Vec<u8>,
        ) {
            let dialog_id = dialog_id.as_bytes();
            let parts = Parts { entity_tag: &entity_tag, sender: &sender, ruid: &ruid, dialog_id, body: &body };
            let packed = pack(&parts).unwrap();
            let block = Block(&packed);
            prop_assert_eq!(block.entity_tag(), entity_tag.clone());
            prop_assert_eq!(block.sender(), sender);
            prop_assert_eq!(block.ruid(), ruid);
            prop_assert_eq!(block.dialog_id(), dialog_id);
            prop_assert_eq!(block.body(), body);
            prop_assert!(block.has_tag(&packed_tag(&entity_tag).unwrap()));
            prop_assert_eq!(block.has_tag(&packed_tag(&other_tag).unwrap()), other_tag == entity_tag);
        }

        #[test]
        fn strange_blocks_are_read_somehow(bytes: Vec<u8>) {
            let block = Block(&bytes);
            let _ = (block.entity_tag(), block.sender(), block.ruid(), block.dialog_id(), block.body());
        }
    }

    #[test]
    fn our_own_texts_are_small() {
        let parts = Parts {
            entity_tag: b"abababababababababababababababab.7",
            ruid: b"pres-abababababababababababababababab",
            body: b"document",
            ..Parts::default()
        };
        assert_eq!(pack(&parts).map(|block| block.len()), Ok(20 + 1 + 17 + 1 + 8));
        assert_eq!(pack(&Parts { sender: &[0; 70_000], ..parts }), Err(TooLong));
        assert_eq!(packed_tag(&[0; 70_000]), Err(TooLong));
    }
}
