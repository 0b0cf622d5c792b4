//! What our servers tell each other beside stock's message: parameters of the
//! Content-Type, at which no release of the stock module looks, so that the
//! message itself stays as stock's.

use crate::presence::replication::stamp::Stamp;
use crate::presence::text;

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Purpose {
    /// A change that was just made; or a question.
    #[default]
    Change,
    /// What a node has, for one that has asked.
    Stored,
    /// A question by a node that was asked itself: it is not asked back.
    Back,
}

/// The parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// The server that sends it: a random number for each start of a server.
    pub node: u64,
    /// When the change was made.
    pub stamp: Option<Stamp>,
    /// What the message is for.
    pub purpose: Purpose,
    /// Whose the subscription is, if not the sender's.
    pub owner: Option<Owner>,
}

/// A server that a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Its address (`stamp::node_of` its URI).
    pub address: u64,
    /// The number that it had.
    pub node: u64,
}

const TYPE: &[u8] = b"application/json";

impl Parameters {
    /// A complete Content-Type.
    pub fn content_type(&self) -> Vec<u8> {
        let mut value = TYPE.to_vec();
        value.extend_from_slice(b";pn=");
        text::push_hexadecimal(&mut value, &self.node.to_be_bytes());
        if let Some(stamp) = self.stamp {
            value.extend_from_slice(b";ps=");
            text::push_hexadecimal(&mut value, &stamp.time().to_be_bytes());
            value.push(b'.');
            text::push_hexadecimal(&mut value, &stamp.node.to_be_bytes());
            if stamp.is_coarse {
                value.extend_from_slice(b".s");
            }
        }
        if let Some(owner) = self.owner {
            value.extend_from_slice(b";po=");
            text::push_hexadecimal(&mut value, &owner.address.to_be_bytes());
            value.push(b'.');
            text::push_hexadecimal(&mut value, &owner.node.to_be_bytes());
        }
        value.extend_from_slice(match self.purpose {
            Purpose::Change => b"",
            Purpose::Stored => b";pk=stored",
            Purpose::Back => b";pk=back",
        });
        value
    }

    /// Those of a message of ours; `None` for that of a stock server.
    pub fn read(content_type: &[u8]) -> Option<Parameters> {
        let (mut node, mut stamp, mut owner) = (None, None, None);
        let mut purpose = Purpose::Change;
        for parameter in content_type.split(|byte| *byte == b';').skip(1) {
            let parameter = parameter.trim_ascii();
            let Some(equals) = parameter.iter().position(|byte| *byte == b'=') else { continue };
            let (name, value) = parameter.split_at(equals);
            let value = value.get(1..).unwrap_or_default();
            match name {
                b"pn" => node = number(value),
                b"ps" => stamp = Some(read_stamp(value)?),
                b"po" => owner = Some(read_owner(value)?),
                b"pk" if value == b"stored" => purpose = Purpose::Stored,
                b"pk" if value == b"back" => purpose = Purpose::Back,
                _ => {}
            }
        }
        Some(Parameters { node: node?, stamp, purpose, owner })
    }
}

fn read_owner(value: &[u8]) -> Option<Owner> {
    let mut parts = value.splitn(2, |byte| *byte == b'.');
    Some(Owner { address: number(parts.next()?)?, node: number(parts.next()?)? })
}

fn read_stamp(value: &[u8]) -> Option<Stamp> {
    let mut parts = value.split(|byte| *byte == b'.');
    let (time, node) = (number(parts.next()?)?, number(parts.next()?)?);
    let is_coarse = parts.next() == Some(b"s");
    Some(Stamp { is_coarse, ..Stamp::of(time, node) })
}

/// 16 hexadecimal digits.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.len() != 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail loudly")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parameters_come_back() {
        let coarse = Stamp::coarse(1_764_335_123, 9);
        let fine = Stamp { counter: 7, is_coarse: false, ..coarse };
        for stamp in [None, Some(coarse), Some(fine)] {
            for purpose in [Purpose::Change, Purpose::Stored, Purpose::Back] {
                for owner in [None, Some(Owner { address: 3, node: 4 })] {
                    let parameters = Parameters { node: u64::MAX - 1, stamp, purpose, owner };
                    let value = parameters.content_type();
                    assert!(value.starts_with(b"application/json;pn="));
                    assert_eq!(Parameters::read(&value), Some(parameters));
                }
            }
        }
    }

    #[test]
    fn stock_gives_none() {
        for value in ["", "application/json", "application/json;charset=utf-8", "x;pn=12;ps"] {
            assert_eq!(Parameters::read(value.as_bytes()), None, "{value}");
        }
        let broken = b"application/json;pn=0123456789abcdef;ps=1.2";
        assert_eq!(Parameters::read(broken), None);
        let plus = b"application/json;pn=+123456789abcdef";
        assert_eq!(Parameters::read(plus), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_somehow(value: Vec<u8>) {
            let _ = Parameters::read(&value);
        }
    }
}
