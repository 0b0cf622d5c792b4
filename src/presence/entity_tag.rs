//! Entity-tags (RFC 3903 4.1): the capability to change a publication. Who
//! knows the tag may change the state, so ours cannot be guessed.

use std::fmt;

use crate::presence::text;

/// The opaque tag of a publication: ours, the stock module's
/// (`a.<start>.<pid>.<counter>.<n>`) or one a sibling chose (pua_json uses the
/// Call-ID). Tags are compared byte by byte.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntityTag(Vec<u8>);

/// The number in a tag of ours has 30 bits. The stock module, which may meet
/// our tags on a shared database, renews a tag by adding 1 to what follows its
/// last dot, as a signed 32-bit number: this leaves it 2^30 renewals.
const NUMBER_BITS: u32 = 0x3fff_ffff;

impl EntityTag {
    /// A new tag of printable token characters, 43 at most:
    /// `<32 hexadecimal digits of random>.<counter>`. `random` must come from
    /// the system's generator; `counter` need not be unique.
    pub fn mint(random: [u8; 16], counter: u32) -> EntityTag {
        let mut tag = Vec::with_capacity(43);
        text::push_hexadecimal(&mut tag, &random);
        tag.push(b'.');
        text::push_decimal(&mut tag, counter & NUMBER_BITS);
        EntityTag(tag)
    }

    /// A tag that a request, a row or a sibling brought, as it is; surrounding
    /// white space is no part of it. `None` if nothing remains.
    pub fn received(value: &[u8]) -> Option<EntityTag> {
        let tag = value.trim_ascii();
        (!tag.is_empty()).then(|| EntityTag(tag.to_vec()))
    }

    /// The tag that a modification or refresh hands out instead of this one,
    /// whatever form this one has. It always differs, and its random part is
    /// new: who saw an old tag cannot guess the living one.
    pub fn successor(&self, random: [u8; 16]) -> EntityTag {
        let next = self.number().map_or(0, |number| number.wrapping_add(1));
        EntityTag::mint(random, next)
    }

    /// The tag has the form of those that are minted here: no two documents
    /// ever have the same.
    pub fn is_minted(tag: &[u8]) -> bool {
        tag.split_at_checked(32).is_some_and(|(random, rest)| {
            random.iter().all(u8::is_ascii_hexdigit)
                && rest.strip_prefix(b".").is_some_and(|n| n.iter().all(u8::is_ascii_digit))
        })
    }

    /// The tag's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The tag's bytes, owned.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// A publication had this tag before the other one, as far as their numbers tell.
    pub fn precedes(tag: &[u8], other: &[u8]) -> bool {
        let number = |tag: &[u8]| EntityTag(tag.to_vec()).number();
        number(tag).zip(number(other)).is_some_and(|(tag, other)| tag < other)
    }

    /// What follows the last dot, if that is a decimal number of 32 bits.
    fn number(&self) -> Option<u32> {
        let dot = self.0.iter().rposition(|byte| *byte == b'.')?;
        let digits = self.0.get(dot + 1..).filter(|digits| !digits.is_empty())?;
        digits.iter().try_fold(0u32, |number, byte| {
            let digit = byte.is_ascii_digit().then(|| u32::from(byte - b'0'))?;
            number.checked_mul(10)?.checked_add(digit)
        })
    }
}

impl AsRef<[u8]> for EntityTag {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for EntityTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tag(text: &str) -> EntityTag {
        EntityTag(text.as_bytes().to_vec())
    }

    #[test]
    fn tags_of_ours_are_known() {
        let ours = EntityTag::mint([7; 16], 3);
        assert!(EntityTag::is_minted(ours.as_bytes()));
        assert!(EntityTag::is_minted(ours.successor([8; 16]).as_bytes()));
        let random = "0123456789abcdef".repeat(2);
        assert!(EntityTag::is_minted(format!("{random}.41").as_bytes()));
        for other in ["", "a.1669.12.3.0", "some-call-id@host", "presence.xml"] {
            assert!(!EntityTag::is_minted(other.as_bytes()), "{other}");
        }
        // Each part counts.
        for rest in ["", "41", ".4x", ".-1", ".4.1", "-41"] {
            assert!(!EntityTag::is_minted(format!("{random}{rest}").as_bytes()), "{rest}");
        }
        for random in [random.replace('a', "g"), random.replacen('0', "", 1), random + "0"] {
            assert!(!EntityTag::is_minted(format!("{random}.41").as_bytes()), "{random}");
        }
    }

    /// How the stock module renews a tag (presentity.c): the number after the
    /// last dot, read as unsigned and printed as signed.
    fn stock_renews(tag: &EntityTag) -> Option<u32> {
        let text = std::str::from_utf8(tag.as_bytes()).ok()?;
        let number: u32 = text.rsplit_once('.')?.1.parse().ok()?;
        i32::try_from(number.checked_add(1)?).ok()?.try_into().ok()
    }

    #[test]
    fn a_tag_is_random_text_and_a_number() {
        let tag = EntityTag::mint([0xab; 16], 7);
        assert_eq!(tag.to_string(), "abababababababababababababababab.7");
        assert_eq!(EntityTag::mint([0; 16], 1).as_bytes().len(), 34);
    }

    #[test]
    fn the_number_goes_on_from_any_tag() {
        for (old, number) in [
            ("a.1700000000.4711.12.0", "1"),
            ("a.1700000000.4711.12.41", "42"),
            ("abc.9", "10"),
            ("3c26700c1adb-abc@192.168.0.1", "2"),
            ("call@host.example.org", "0"),
            ("no-dot", "0"),
            ("ends.", "0"),
            ("", "0"),
            ("a.-5", "0"),
            ("a.+5", "0"),
            ("a.4294967296", "0"),
            ("*#-OFFLINE-#*", "0"),
        ] {
            let new = tag(old).successor([1; 16]).to_string();
            assert_eq!(new.rsplit('.').next(), Some(number), "{old}");
        }
    }

    #[test]
    fn white_space_around_a_received_tag_is_dropped() {
        assert_eq!(EntityTag::received(b" a.1\t"), Some(tag("a.1")));
        assert_eq!(EntityTag::received(b" \t"), None);
    }

    proptest! {
        #[test]
        fn a_minted_tag_is_short_a_token_and_renewable_by_stock(
            random: [u8; 16], counter: u32,
        ) {
            let tag = EntityTag::mint(random, counter);
            prop_assert!(tag.as_bytes().len() < 100);
            prop_assert!(tag.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || *b == b'.'));
            prop_assert!(stock_renews(&tag).is_some());
            prop_assert_eq!(tag.number(), Some(counter & NUMBER_BITS));
        }

        #[test]
        fn the_successor_of_any_bytes_is_another_tag(old: Vec<u8>, random: [u8; 16]) {
            let old = EntityTag(old);
            let new = old.successor(random);
            prop_assert_ne!(&new, &old);
            prop_assert!(stock_renews(&new).is_some());
            prop_assert_ne!(new.successor(random), new);
        }
    }
}
