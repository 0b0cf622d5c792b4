//! JSON as the stock module writes it. What comes from a peer is hostile: size
//! and depth are looked at before anything is parsed, and each member has to be
//! of the type that is asked for. A document may have any bytes above 127, so
//! texts are bytes.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Levels of objects and arrays that a message may have. (Stock's have two.)
const DEPTH: usize = 8;
/// Members that one object may have. (Stock's have 27 at most.)
const MEMBERS: usize = 64;

/// A message that is not what it should be, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// A member's value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Member {
    Text(Vec<u8>),
    Number(i64),
    Object(Object),
    /// A value that no member of ours has: null, an array, a fraction, a number
    /// beyond 64 bits.
    Other,
}

/// An object: no name twice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Object {
    members: Vec<(Vec<u8>, Member)>,
}

impl Object {
    /// Reads a message of at most `most` bytes, which is one object and nothing
    /// more.
    pub fn parse(message: &[u8], most: usize) -> Result<Object, Malformed> {
        if message.len() > most {
            return Err(Malformed("it is too large"));
        }
        if !is_flat(message) {
            return Err(Malformed("it is nested too deeply"));
        }
        // JSON is UTF-8, but documents are bytes to the stock module.
        let (text, is_utf8) = match std::str::from_utf8(message) {
            Ok(text) => (Cow::Borrowed(text), true),
            Err(_) => (message.iter().copied().map(char::from).collect(), false),
        };
        let mut reader = serde_json::Deserializer::from_str(&text);
        let parsed = Member::deserialize(&mut reader);
        let parsed = parsed.map_err(|_| Malformed("it is no valid JSON"))?;
        reader.end().map_err(|_| Malformed("something follows the JSON object"))?;
        match parsed {
            Member::Object(object) if object.is_sound() => {
                Ok(if is_utf8 { object } else { object.in_bytes() })
            }
            Member::Object(_) => Err(Malformed("a name or text is not allowed")),
            _ => Err(Malformed("it is no object")),
        }
    }

    /// No name twice, no NUL in any text, in it and below.
    fn is_sound(&self) -> bool {
        self.members.len() <= MEMBERS
            && self.members.iter().enumerate().all(|(at, (name, member))| {
                let is_new = self.members.iter().take(at).all(|(other, _)| other != name);
                is_new
                    && match member {
                        Member::Text(text) => !text.contains(&0),
                        Member::Object(object) => object.is_sound(),
                        Member::Number(_) | Member::Other => true,
                    }
            })
    }

    /// With characters as the bytes that they stood for.
    fn in_bytes(mut self) -> Object {
        for (_, member) in &mut self.members {
            *member = match std::mem::replace(member, Member::Other) {
                Member::Text(text) => Member::Text(in_bytes(text)),
                Member::Object(object) => Member::Object(object.in_bytes()),
                other => other,
            };
        }
        self
    }

    fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|(own, _)| own == name.as_bytes()).map(|(_, member)| member)
    }

    /// A text, if it is there.
    pub fn text(&self, name: &str) -> Result<Option<&[u8]>, Malformed> {
        match self.member(name) {
            None => Ok(None),
            Some(Member::Text(text)) => Ok(Some(text)),
            Some(_) => Err(Malformed("a member that should be a text is none")),
        }
    }

    /// A text of at most `most` printable characters, as identities and headers
    /// have.
    pub fn line(&self, name: &str, most: usize) -> Result<Option<&[u8]>, Malformed> {
        let text = self.text(name)?;
        match text {
            Some(text) if text.len() > most => Err(Malformed("a text is too long")),
            Some(text) if text.iter().any(u8::is_ascii_control) => {
                Err(Malformed("a text has control characters"))
            }
            text => Ok(text),
        }
    }

    /// A number in this range, if it is there.
    pub fn number(&self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, Malformed> {
        match self.member(name) {
            None => Ok(None),
            Some(Member::Number(number)) if range.contains(number) => Ok(Some(*number)),
            Some(Member::Number(_)) => Err(Malformed("a number is out of range")),
            Some(_) => Err(Malformed("a member that should be an integer is none")),
        }
    }

    /// An object, if it is there.
    pub fn object(&self, name: &str) -> Result<Option<&Object>, Malformed> {
        match self.member(name) {
            None => Ok(None),
            Some(Member::Object(object)) => Ok(Some(object)),
            Some(_) => Err(Malformed("a member that should be an object is none")),
        }
    }
}

fn in_bytes(text: Vec<u8>) -> Vec<u8> {
    let Ok(characters) = std::str::from_utf8(&text) else { return text };
    let mut bytes = Vec::with_capacity(text.len());
    for character in characters.chars() {
        match u8::try_from(character) {
            Ok(byte) => bytes.push(byte),
            Err(_) => bytes.extend_from_slice(character.to_string().as_bytes()),
        }
    }
    bytes
}

/// No more levels than a message may have, seen without parsing it.
fn is_flat(message: &[u8]) -> bool {
    let (mut depth, mut in_text, mut escaped) = (0usize, false, false);
    for byte in message {
        match (in_text, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (true, b'"') => in_text = false,
            (false, b'"') => in_text = true,
            (false, b'{' | b'[') => {
                depth += 1;
                if depth > DEPTH {
                    return false;
                }
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    true
}

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Member, D::Error> {
        reader.deserialize_any(MemberVisitor)
    }
}

struct MemberVisitor;

impl<'de> Visitor<'de> for MemberVisitor {
    type Value = Member;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Member, E> {
        Ok(Member::Text(text.as_bytes().to_vec()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Member, E> {
        Ok(Member::Number(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Member, E> {
        Ok(i64::try_from(number).map_or(Member::Other, Member::Number))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Member, E> {
        Ok(Member::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Member, E> {
        Ok(Member::Other)
    }

    fn visit_unit<E>(self) -> Result<Member, E> {
        Ok(Member::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Member, A::Error> {
        while all.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Member::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Member, A::Error> {
        let mut members = Vec::new();
        while let Some(name) = all.next_key::<String>()? {
            let member = all.next_value::<Member>()?;
            // One more than there may be is enough to see it.
            if members.len() <= MEMBERS {
                members.push((name.into_bytes(), member));
            }
        }
        Ok(Member::Object(Object { members }))
    }
}

/// Begins or goes on with an object that is written: `"name":` behind what is
/// needed in front of it.
pub fn push_name(message: &mut Vec<u8>, name: &str) {
    if !message.ends_with(b"{") {
        message.push(b',');
    }
    message.push(b'"');
    message.extend_from_slice(name.as_bytes());
    message.extend_from_slice(b"\":");
}

/// A member that is a text.
pub fn push_text(message: &mut Vec<u8>, name: &str, text: &[u8]) {
    push_name(message, name);
    message.push(b'"');
    for byte in text {
        match byte {
            b'"' => message.extend_from_slice(b"\\\""),
            b'\\' => message.extend_from_slice(b"\\\\"),
            b'\x08' => message.extend_from_slice(b"\\b"),
            b'\x0c' => message.extend_from_slice(b"\\f"),
            b'\n' => message.extend_from_slice(b"\\n"),
            b'\r' => message.extend_from_slice(b"\\r"),
            b'\t' => message.extend_from_slice(b"\\t"),
            0..0x20 => message.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            byte => message.push(*byte),
        }
    }
    message.push(b'"');
}

/// A member that is a number.
pub fn push_number(message: &mut Vec<u8>, name: &str, number: i64) {
    push_name(message, name);
    message.extend_from_slice(number.to_string().as_bytes());
}
