//! What an operator asks of a list: how much of it, from where on, of which
//! package, of whom. Words of the command are read here; nothing is looked up.

use crate::presence::uri::{self, UserCase};

/// Where a list goes on. What is listed may come and go meanwhile: whatever is
/// there all the time is listed once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum After {
    /// With the records in memory from here on.
    Record {
        /// Number of the shard.
        shard: u32,
        /// The first place in it.
        index: u32,
    },
    /// With the rows behind this `id`.
    Row(i64),
}

impl After {
    /// As `after` of a list's last entry says it.
    pub fn text(self) -> Vec<u8> {
        match self {
            After::Record { shard, index } => format!("{shard}.{index}"),
            After::Row(id) => id.to_string(),
        }
        .into_bytes()
    }

    /// What `text` has made.
    pub fn parse(text: &[u8]) -> Option<After> {
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let text = std::str::from_utf8(text).ok()?;
        match text.split_once('.') {
            Some((shard, index)) if is_number(shard) && is_number(index) => {
                Some(After::Record { shard: shard.parse().ok()?, index: index.parse().ok()? })
            }
            None if is_number(text) => text.parse().ok().map(After::Row),
            _ => None,
        }
    }
}

/// A pattern for users and hosts: `*` and `%` stand for anything. Without either it
/// may stand anywhere. Case does not matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Like {
    /// The texts between what stands for anything, in lower case.
    parts: Vec<Vec<u8>>,
}

impl Like {
    /// The pattern of this text.
    pub fn new(text: &[u8]) -> Like {
        let lower = text.to_ascii_lowercase();
        let is_any = |byte: &u8| matches!(byte, b'*' | b'%');
        let mut parts: Vec<Vec<u8>> = lower.split(is_any).map(<[u8]>::to_vec).collect();
        if parts.len() == 1 {
            parts.insert(0, Vec::new());
            parts.push(Vec::new());
        }
        Like { parts }
    }

    /// `user@host` is like that.
    pub fn fits(&self, user: &[u8], host: &[u8]) -> bool {
        let mut text = Vec::with_capacity(user.len() + host.len() + 1);
        text.extend_from_slice(user);
        text.push(b'@');
        text.extend_from_slice(host);
        text.make_ascii_lowercase();
        let Some(((first, between), last)) = self
            .parts
            .split_first()
            .and_then(|(first, rest)| Some((first, rest.split_last()?)))
            .map(|(first, (last, between))| ((first, between), last))
        else {
            return true;
        };
        let Some(mut rest) = text.strip_prefix(first.as_slice()) else { return false };
        for part in between.iter().filter(|part| !part.is_empty()) {
            match find(rest, part) {
                Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

/// What of a list is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// User of the presentity.
    pub user: Option<&'a [u8]>,
    /// Host of the presentity.
    pub host: Option<&'a [u8]>,
    /// Name of the event package.
    pub event: Option<&'a [u8]>,
    /// The watcher of a subscription, the presentity of a publication.
    pub like: Option<Like>,
    /// Call-ID of a subscription.
    pub call_id: Option<&'a [u8]>,
    /// Where to go on.
    pub after: Option<After>,
    /// How many entries at most.
    pub limit: Option<usize>,
}

/// A word that a list does not know what to do with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongWord;

impl<'a> Wanted<'a> {
    /// Takes what stands behind the arguments of its own: `name=value`, or the
    /// values of `limit`, `after`, `event` and `like` in this order.
    pub fn take(&mut self, words: &[&'a [u8]]) -> Result<(), WrongWord> {
        const NAMES: [&[u8]; 4] = [b"limit", b"after", b"event", b"like"];
        let mut given = [false; NAMES.len()];
        for (at, word) in words.iter().enumerate() {
            let named = NAMES.iter().enumerate().find_map(|(number, name)| {
                Some((number, word.strip_prefix(*name)?.strip_prefix(b"=")?))
            });
            let (number, value) = named.unwrap_or((at, word));
            let given = given.get_mut(number).ok_or(WrongWord)?;
            if std::mem::replace(given, true) {
                return Err(WrongWord);
            }
            self.set(number, value)?;
        }
        Ok(())
    }

    fn set(&mut self, number: usize, value: &'a [u8]) -> Result<(), WrongWord> {
        // One in the middle that is of no interest.
        if value.is_empty() {
            return Ok(());
        }
        match number {
            0 => {
                let limit = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                self.limit = Some(limit.filter(|limit| *limit > 0).ok_or(WrongWord)?);
            }
            1 => self.after = Some(After::parse(value).ok_or(WrongWord)?),
            2 => self.event = Some(value),
            _ => self.like = Some(Like::new(value)),
        }
        Ok(())
    }

    /// The presentity is one of those asked for. Both parts are compared without
    /// case.
    pub fn is_of(&self, user: &[u8], host: &[u8]) -> bool {
        self.user.is_none_or(|wanted| uri::same_user(wanted, user, UserCase::Insensitive))
            && self.host.is_none_or(|wanted| uri::same_user(wanted, host, UserCase::Insensitive))
    }
}

/// How much of a list fits into the answer: what its transport can take.
#[derive(Debug)]
pub struct Piece {
    entries: usize,
    bytes: usize,
}

/// What carries the answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// `kamcmd`, which takes 128 KiB in all.
    Binary,
    /// JSON, which is to fit into a datagram of 64 KiB.
    Json,
}

impl Carrier {
    /// Bytes of all entries of a piece.
    fn room(self) -> usize {
        match self {
            Carrier::Binary => 120 * 1024,
            Carrier::Json => 60 * 1024,
        }
    }

    /// Bytes of one entry.
    pub fn entry(self) -> usize {
        match self {
            // `binrpc_struct_max_body_size`, 8 KiB by default.
            Carrier::Binary => 7 * 1024,
            Carrier::Json => usize::MAX,
        }
    }

    /// What a field takes, rather too much than too little.
    pub fn field(self, name: usize, value: &[u8]) -> usize {
        match self {
            Carrier::Binary => name + value.len() + 12,
            Carrier::Json => {
                let escaped = value.iter().map(|byte| match byte {
                    b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
                    0..0x20 | 0x7F.. => 6,
                    _ => 1,
                });
                name + escaped.sum::<usize>() + 16
            }
        }
    }
}

impl Piece {
    /// Of so many entries at most.
    pub fn new(carrier: Carrier, limit: Option<usize>) -> Piece {
        Piece { entries: limit.unwrap_or(usize::MAX), bytes: carrier.room() }
    }

    /// There is room for one more entry of so many bytes. The first one always has
    /// room.
    pub fn takes(&mut self, bytes: usize, is_first: bool) -> bool {
        if !is_first && (self.entries == 0 || bytes > self.bytes) {
            return false;
        }
        self.entries = self.entries.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn take<'a>(words: &[&'a str]) -> Result<Wanted<'a>, WrongWord> {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let mut wanted = Wanted::default();
        wanted.take(&words).map(|()| wanted)
    }

    #[test]
    fn words_have_names_or_come_in_order() {
        let all = Wanted {
            limit: Some(10),
            after: Some(After::Record { shard: 3, index: 70 }),
            event: Some(b"dialog;sla"),
            like: Some(Like::new(b"bob")),
            ..Wanted::default()
        };
        assert_eq!(take(&["10", "3.70", "dialog;sla", "bob"]), Ok(all.clone()));
        assert_eq!(take(&["like=bob", "event=dialog;sla", "after=3.70", "limit=10"]), Ok(all));
        assert_eq!(take(&[]), Ok(Wanted::default()));
        assert_eq!(take(&["", "17"]).map(|wanted| wanted.after), Ok(Some(After::Row(17))));
    }

    #[test]
    fn wrong_words_are_refused() {
        for words in [
            &["none"][..],
            &["limit=0"],
            &["limit=-1"],
            &["limit=1", "limit=2"],
            &["1", "limit=2"],
            &["after=x"],
            &["after=1.2.3"],
            &["after=1."],
            &["after=-1"],
            &["1", "2", "presence", "bob", "more"],
        ] {
            let is_refused = take(words).is_err();
            // A number that is cut off names nothing.
            assert!(is_refused, "{words:?}");
        }
    }

    #[test]
    fn patterns() {
        for (pattern, fits, others) in [
            ("bob", &["bob@h", "kebob@h", "x@bob.org"][..], &["bo@b"][..]),
            ("bob@*", &["bob@h", "BOB@h"], &["kebob@h"]),
            ("*@example.org", &["a@Example.org"], &["a@example.org.uk", "a@h"]),
            ("b%b@h", &["bob@h", "bb@h", "bxxb@h"], &["b@h", "bob@hh"]),
            ("*", &["", "a@b"], &[]),
            ("a*b*c", &["a@bc", "aXbXc@c"], &["acb@h"]),
        ] {
            let like = Like::new(pattern.as_bytes());
            let is = |text: &&str| {
                let (user, host) = text.split_once('@').unwrap_or((text, ""));
                like.fits(user.as_bytes(), host.as_bytes())
            };
            assert!(fits.iter().all(is), "{pattern}");
            assert!(!others.iter().any(is), "{pattern}");
        }
    }

    #[test]
    fn a_piece_ends_with_the_room_or_the_limit() {
        let mut piece = Piece::new(Carrier::Json, Some(2));
        assert!(piece.takes(1 << 20, true) && !piece.takes(1, false));
        let mut piece = Piece::new(Carrier::Binary, Some(2));
        assert!(piece.takes(10, true) && piece.takes(10, false) && !piece.takes(10, false));
        let mut piece = Piece::new(Carrier::Json, None);
        let taken = (0..1000).take_while(|n| piece.takes(600, *n == 0)).count();
        assert!((90..=103).contains(&taken), "{taken}");
    }

    proptest! {
        #[test]
        fn places_come_back(shard: u32, index: u32, id in 0i64..) {
            for after in [After::Record { shard, index }, After::Row(id)] {
                prop_assert_eq!(After::parse(&after.text()), Some(after));
            }
        }

        #[test]
        fn any_words_are_read_somehow(words: Vec<Vec<u8>>, user: Vec<u8>, pattern: Vec<u8>) {
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            let _ = Wanted::default().take(&words);
            Like::new(&pattern).fits(&user, b"h");
        }
    }
}
