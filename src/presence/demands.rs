//! What a request demands of the server before its method counts (RFC 3261
//! 8.2.2.3, 8.2.3): extensions, encodings, and a form that it can have. A
//! demand that cannot be met is refused (B47).

use crate::error::Rejection;
use crate::presence::content_type;
use crate::presence::cseq::CSeq;
use crate::presence::header_values::Values;
use crate::presence::text::is_token;

/// Option tags that are served: a list that rls has not taken is one resource
/// (RFC 4662 4.1).
const OPTION_TAGS: [&[u8]; 1] = [b"eventlist"];

/// What a request demands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demands<'a> {
    /// Values of Require.
    pub require: Values<'a>,
    /// Values of Content-Encoding.
    pub content_encoding: Values<'a>,
    /// Values of Accept.
    pub accept: Values<'a>,
    /// It has more than one Contact address.
    pub second_contact: bool,
}

impl Demands<'_> {
    /// Refuses a PUBLISH that demands what is not there. (Its Contact and its
    /// Accept mean nothing, RFC 3903 4.)
    pub fn of_publish(&self, cseq: CSeq) -> Result<(), Rejection> {
        self.extensions()?;
        self.encoding()?;
        in_range(cseq)
    }

    /// Refuses a SUBSCRIBE that demands what is not there.
    pub fn of_subscribe(&self, cseq: CSeq) -> Result<(), Rejection> {
        self.of_publish(cseq)?;
        match self.second_contact {
            true => Err(Rejection::bad_request("More Than One Contact")),
            false => Ok(()),
        }
    }

    /// 406 where the watcher cannot take documents of this type.
    pub fn documents(&self, content_type: &[u8]) -> Result<(), Rejection> {
        match content_type::is_accepted(&self.accept, content_type) {
            true => Ok(()),
            false => Err(Rejection::new(406, "Not Acceptable")),
        }
    }

    /// 420 that lists the option tags nobody knows (RFC 3261 8.2.2.3).
    fn extensions(&self) -> Result<(), Rejection> {
        let mut unknown: Vec<&[u8]> = Vec::new();
        for tag in self.require.iter().flat_map(|value| value.split(|byte| *byte == b',')) {
            let tag = tag.trim_ascii();
            if tag.is_empty() || OPTION_TAGS.iter().any(|known| known.eq_ignore_ascii_case(tag)) {
                continue;
            }
            // It is written into the reply.
            if !is_token(tag) {
                return Err(Rejection::bad_request("Malformed Require"));
            }
            unknown.push(tag);
        }
        if unknown.is_empty() {
            return Ok(());
        }
        let headers = [b"Unsupported: ", &unknown.join(&b", "[..])[..], b"\r\n"].concat();
        Err(Rejection { headers, ..Rejection::new(420, "Bad Extension") })
    }

    /// 415 with the one encoding there is (RFC 3261 8.2.3).
    fn encoding(&self) -> Result<(), Rejection> {
        let is_plain = |coding: &[u8]| {
            let coding = coding.trim_ascii();
            coding.is_empty() || coding.eq_ignore_ascii_case(b"identity")
        };
        let mut values = self.content_encoding.iter();
        if values.all(|value| value.split(|byte| *byte == b',').all(is_plain)) {
            return Ok(());
        }
        let headers = b"Accept-Encoding: identity\r\n".to_vec();
        Err(Rejection { headers, ..Rejection::new(415, "Unsupported media type") })
    }
}

fn in_range(cseq: CSeq) -> Result<(), Rejection> {
    match cseq.is_valid() {
        true => Ok(()),
        false => Err(Rejection::bad_request("CSeq Out Of Range")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values<'a>(list: &[&'a str]) -> Values<'a> {
        list.iter().map(|value| value.as_bytes()).collect()
    }

    fn answer(demands: &Demands<'_>) -> Option<(u16, String)> {
        let rejection = demands.of_subscribe(CSeq(1)).err()?;
        Some((rejection.code, String::from_utf8_lossy(&rejection.headers).into_owned()))
    }

    #[test]
    fn unknown_option_tags_are_listed_and_no_others() {
        let require =
            |list: &[&'static str]| Demands { require: values(list), ..Demands::default() };
        for known in [&[][..], &[""], &["eventlist"], &["EventList ,", " eventlist"]] {
            assert_eq!(answer(&require(known)), None, "{known:?}");
        }
        for (list, unsupported) in [
            (&["x"][..], "x"),
            (&["x, eventlist,y"], "x, y"),
            (&["eventlist", "x", "y ,z"], "x, y, z"),
            (&["recipient-list-subscribe"], "recipient-list-subscribe"),
        ] {
            let headers = format!("Unsupported: {unsupported}\r\n");
            assert_eq!(answer(&require(list)), Some((420, headers)), "{list:?}");
        }
        for malformed in ["a b", "x\r\n y", "x\u{fffd}"] {
            assert_eq!(answer(&require(&[malformed])).map(|(code, _)| code), Some(400));
        }
    }

    #[test]
    fn only_identity_is_decoded() {
        let encoding = |list: &[&'static str]| Demands {
            content_encoding: values(list),
            ..Demands::default()
        };
        for plain in [&[][..], &[""], &["identity"], &["Identity", "identity, identity"]] {
            assert_eq!(answer(&encoding(plain)), None, "{plain:?}");
        }
        for other in [&["gzip"][..], &["identity, gzip"], &["identity", "deflate"], &["*"]] {
            let headers = "Accept-Encoding: identity\r\n".to_owned();
            assert_eq!(answer(&encoding(other)), Some((415, headers)), "{other:?}");
        }
    }

    #[test]
    fn one_contact_and_31_bits_of_cseq() {
        let two = Demands { second_contact: true, ..Demands::default() };
        assert_eq!(answer(&two).map(|(code, _)| code), Some(400));
        assert_eq!(two.of_publish(CSeq(1)), Ok(()), "the Contact of a PUBLISH means nothing");
        let demands = Demands::default();
        for (cseq, fits) in
            [(0, true), (0x7FFF_FFFF, true), (0x8000_0000, false), (u32::MAX, false)]
        {
            assert_eq!(demands.of_subscribe(CSeq(cseq)).is_ok(), fits, "{cseq}");
            assert_eq!(demands.of_publish(CSeq(cseq)).is_ok(), fits, "{cseq}");
        }
    }

    proptest! {
        #[test]
        fn no_demand_starts_a_header_of_its_own(lists: Vec<Vec<u8>>) {
            let require = lists.iter().map(Vec::as_slice).collect();
            if let Err(rejection) = (Demands { require, ..Demands::default() }).of_publish(CSeq(1)) {
                let breaks = rejection.headers.iter().filter(|b| matches!(b, b'\r' | b'\n'));
                prop_assert!(breaks.count() <= 2);
            }
        }
    }
}
