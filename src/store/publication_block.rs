//! The text and the document of a publication in one block of bytes, as small as
//! can be: it is what most memory goes into.

use crate::presence::publication::RUID_PREFIX;
use crate::presence::text::{TooLong, from_digits, push_decimal, push_hexadecimal, take};

/// What a block is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parts<'a> {
    /// Its current entity-tag.
    pub entity_tag: &'a [u8],
    /// Watcher URI of the publisher, not to be notified.
    pub sender: &'a [u8],
    /// Stable id across entity-tags (`ruid` column).
    pub ruid: &'a [u8],
    /// User of its presentity, where it is spelled otherwise than there.
    pub user: &'a [u8],
    /// `id` of the first dialog of a dialog-info document.
    pub dialog_id: &'a [u8],
    /// The document, or nothing where it is kept elsewhere.
    pub body: &'a [u8],
}

/// The first byte of a block: which of the following there is.
mod has {
    /// The entity-tag is one of ours: 16 bytes and a number in place of
    /// hexadecimal digits, a dot and decimal digits.
    pub const OUR_TAG: u8 = 1;
    /// The `ruid` is one of ours: 16 bytes in place of hexadecimal digits.
    pub const OUR_RUID: u8 = 2;
    /// A sender.
    pub const SENDER: u8 = 4;
    /// A dialog.
    pub const DIALOG: u8 = 8;
    /// A user.
    pub const USER: u8 = 16;
}

/// A text begins with its length, or with this and its length in two bytes.
const LONG: u8 = 0xFF;

/// Packs a block.
pub fn pack(parts: &Parts<'_>) -> Result<Vec<u8>, TooLong> {
    let mut ruid = Vec::with_capacity(parts.ruid.len() + 2);
    let ours = push_ruid(&mut ruid, parts.ruid)?;
    assemble(parts, (&ruid, ours), parts.user)
}

/// Packs a block again, with the `ruid` and user that it has and other parts.
pub fn repack(block: &Block<'_>, parts: &Parts<'_>) -> Result<Vec<u8>, TooLong> {
    assemble(parts, (block.packed_ruid, block.flags & has::OUR_RUID), block.user)
}

fn assemble(
    parts: &Parts<'_>,
    (ruid, our_ruid): (&[u8], u8),
    user: &[u8],
) -> Result<Vec<u8>, TooLong> {
    let texts = parts.entity_tag.len() + ruid.len() + parts.sender.len() + parts.dialog_id.len();
    let mut block = Vec::with_capacity(texts + user.len() + parts.body.len() + 8);
    let mut flags = our_ruid;
    block.push(0);
    flags |= push_tag(&mut block, parts.entity_tag)?;
    block.extend_from_slice(ruid);
    let texts = [(has::USER, user), (has::SENDER, parts.sender), (has::DIALOG, parts.dialog_id)];
    for (flag, text) in texts {
        if !text.is_empty() {
            flags |= flag;
            push_text(&mut block, text)?;
        }
    }
    block.extend_from_slice(parts.body);
    if let Some(first) = block.first_mut() {
        *first = flags;
    }
    Ok(block)
}

/// An entity-tag as a block has it: no other tag looks the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedTag {
    bytes: Vec<u8>,
    flag: u8,
}

impl PackedTag {
    /// Packs a tag that a request names.
    pub fn new(entity_tag: &[u8]) -> Result<PackedTag, TooLong> {
        let mut bytes = Vec::with_capacity(entity_tag.len() + 2);
        let flag = push_tag(&mut bytes, entity_tag)?;
        Ok(PackedTag { bytes, flag })
    }

    /// The block's tag is this one.
    pub fn is_of(&self, block: &[u8]) -> bool {
        block.split_first().is_some_and(|(flags, rest)| {
            flags & has::OUR_TAG == self.flag && rest.starts_with(&self.bytes)
        })
    }
}

/// A block that `pack` has made, read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Block<'a> {
    flags: u8,
    tag: &'a [u8],
    tag_number: u32,
    ruid: &'a [u8],
    packed_ruid: &'a [u8],
    user: &'a [u8],
    sender: &'a [u8],
    dialog_id: &'a [u8],
    body: &'a [u8],
}

impl<'a> Block<'a> {
    /// Reads a block.
    pub fn new(block: &'a [u8]) -> Block<'a> {
        let Some((flags, mut rest)) = block.split_first() else { return Block::default() };
        let has = |flag| flags & flag != 0;
        let (tag, tag_number) = match has(has::OUR_TAG) {
            true => (take(&mut rest, 16), take_number(&mut rest)),
            false => (take_text(&mut rest), 0),
        };
        let before = rest;
        let ruid = match has(has::OUR_RUID) {
            true => take(&mut rest, 16),
            false => take_text(&mut rest),
        };
        let packed_ruid = before.get(..before.len() - rest.len()).unwrap_or_default();
        let user = if has(has::USER) { take_text(&mut rest) } else { b"" };
        let sender = if has(has::SENDER) { take_text(&mut rest) } else { b"" };
        let dialog_id = if has(has::DIALOG) { take_text(&mut rest) } else { b"" };
        Block {
            flags: *flags,
            tag,
            tag_number,
            ruid,
            packed_ruid,
            user,
            sender,
            dialog_id,
            body: rest,
        }
    }

    /// Its entity-tag.
    pub fn entity_tag(&self) -> Vec<u8> {
        if self.flags & has::OUR_TAG == 0 {
            return self.tag.to_vec();
        }
        let mut tag = Vec::with_capacity(43);
        push_hexadecimal(&mut tag, self.tag);
        tag.push(b'.');
        push_decimal(&mut tag, self.tag_number);
        tag
    }

    /// Its `ruid`.
    pub fn ruid(&self) -> Vec<u8> {
        if self.flags & has::OUR_RUID == 0 {
            return self.ruid.to_vec();
        }
        let mut ruid = Vec::with_capacity(RUID_PREFIX.len() + 32);
        ruid.extend_from_slice(RUID_PREFIX);
        push_hexadecimal(&mut ruid, self.ruid);
        ruid
    }

    /// User of its presentity as it spells it; empty if as the presentity does.
    pub fn user(&self) -> &'a [u8] {
        self.user
    }

    /// Its sender.
    pub fn sender(&self) -> &'a [u8] {
        self.sender
    }

    /// Its dialog.
    pub fn dialog_id(&self) -> &'a [u8] {
        self.dialog_id
    }

    /// Its document.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }
}

/// Appends a tag; gives the flag that tells how.
fn push_tag(block: &mut Vec<u8>, tag: &[u8]) -> Result<u8, TooLong> {
    if let Some((bytes, rest)) = from_hexadecimal(tag)
        && let Some(number) = rest.strip_prefix(b".").and_then(from_decimal)
    {
        block.extend_from_slice(&bytes);
        push_number(block, number);
        return Ok(has::OUR_TAG);
    }
    push_text(block, tag).map(|()| 0)
}

fn push_ruid(block: &mut Vec<u8>, ruid: &[u8]) -> Result<u8, TooLong> {
    if let Some((bytes, b"")) = ruid.strip_prefix(RUID_PREFIX).and_then(from_hexadecimal) {
        block.extend_from_slice(&bytes);
        return Ok(has::OUR_RUID);
    }
    push_text(block, ruid).map(|()| 0)
}

fn push_text(block: &mut Vec<u8>, text: &[u8]) -> Result<(), TooLong> {
    let length = u16::try_from(text.len()).map_err(|_| TooLong)?;
    match u8::try_from(length) {
        Ok(short) if short < LONG => block.push(short),
        _ => {
            block.push(LONG);
            block.extend_from_slice(&length.to_le_bytes());
        }
    }
    block.extend_from_slice(text);
    Ok(())
}

fn take_text<'a>(block: &mut &'a [u8]) -> &'a [u8] {
    let length = match *take(block, 1) {
        [LONG] => take(block, 2).try_into().map(u16::from_le_bytes).unwrap_or_default(),
        [short] => u16::from(short),
        _ => 0,
    };
    take(block, length.into())
}

/// Appends a number, seven bits to a byte.
fn push_number(block: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        block.push(number as u8 | 0x80);
        number >>= 7;
    }
    block.push(number as u8);
}

fn take_number(block: &mut &[u8]) -> u32 {
    let (mut number, mut shift) = (0u32, 0);
    while let [byte] = *take(block, 1) {
        number |= u32::from(byte & 0x7F).checked_shl(shift).unwrap_or_default();
        shift += 7;
        if byte < 0x80 {
            break;
        }
    }
    number
}

/// The number that decimal digits stand for, if it is shown by the same digits.
fn from_decimal(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || (digits.len() > 1 && digits.first() == Some(&b'0')) {
        return None;
    }
    digits.iter().try_fold(0u32, |number, digit| {
        let value = digit.is_ascii_digit().then(|| u32::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(value)
    })
}

/// The bytes that the 32 hexadecimal digits at a text's start stand for, and
/// what follows.
fn from_hexadecimal(text: &[u8]) -> Option<([u8; 16], &[u8])> {
    let (digits, rest) = text.split_first_chunk::<32>()?;
    let mut bytes = [0; 16];
    for (four, digits) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(digits.as_chunks().0) {
        *four = from_digits(*digits)?.to_be_bytes();
    }
    Some((bytes, rest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail loudly")]
    use super::*;
    use proptest::prelude::*;

    fn text() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            4 => "[0-9a-f]{31,33}(\\.[0-9]{0,11})?".prop_map(String::into_bytes),
            4 => "pres-[0-9a-fA]{31,33}".prop_map(String::into_bytes),
            2 => prop::collection::vec(any::<u8>(), 0..40),
            1 => prop::collection::vec(any::<u8>(), 210..800),
        ]
    }

    proptest! {
        #[test]
        fn any_parts_come_back(
            entity_tag in text(), other_tag in text(), ruid in text(), sender in text(),
            user in text(), dialog_id in text(), body in text(),
        ) {
            let parts = Parts {
                entity_tag: &entity_tag,
                sender: &sender,
                ruid: &ruid,
                user: &user,
                dialog_id: &dialog_id,
                body: &body,
            };
            let packed = pack(&parts).unwrap();
            let block = Block::new(&packed);
            prop_assert_eq!(block.entity_tag(), entity_tag.clone());
            prop_assert_eq!(block.sender(), sender.clone());
            prop_assert_eq!(block.user(), user.clone());
            prop_assert_eq!(block.ruid(), ruid.clone());
            prop_assert_eq!(block.dialog_id(), dialog_id.clone());
            prop_assert_eq!(block.body(), body.clone());
            prop_assert!(PackedTag::new(&entity_tag).unwrap().is_of(&packed));
            let other = PackedTag::new(&other_tag).unwrap();
            prop_assert_eq!(other.is_of(&packed), other_tag == entity_tag);
            let changed = Parts { entity_tag: &other_tag, ..parts };
            let again = repack(&block, &Parts { ruid: b"", user: b"", ..changed }).unwrap();
            prop_assert_eq!(again, pack(&changed).unwrap());
        }

        #[test]
        fn strange_blocks_are_read_somehow(bytes: Vec<u8>) {
            let block = Block::new(&bytes);
            let _ = (block.entity_tag(), block.ruid(), repack(&block, &Parts::default()));
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
        assert_eq!(pack(&parts).map(|block| block.len()), Ok(1 + 17 + 16 + 8));
        assert_eq!(pack(&Parts { sender: &[0; 65_536], ..parts }), Err(TooLong));
        assert_eq!(PackedTag::new(&[0; 65_536]), Err(TooLong));
    }
}
