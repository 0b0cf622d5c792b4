//! What servers say about their columns, in terms of what these take.

use crate::sql::Dialect;

/// The text that a column takes, from this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Charset {
    /// Nothing is known: the server judges.
    #[default]
    Unknown,
    /// Any bytes, each of them a character.
    Bytes {
        /// NUL is one (not in PostgreSQL).
        nul: bool,
    },
    /// UTF-8 with characters of at most so many bytes.
    Utf8 {
        /// 4, or 3 (MySQL's `utf8mb3`).
        longest: usize,
        /// NUL is a character.
        nul: bool,
    },
    /// UTF-8 with the characters of Latin 1 only.
    Latin1 {
        /// The characters of Windows 1252 count, too: MySQL calls that `latin1`.
        windows: bool,
    },
    /// ASCII without NUL.
    Ascii,
}

/// What Windows 1252 has in place of control characters.
const WINDOWS: &str = "€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ";

impl Charset {
    /// It takes this text as it is.
    pub fn takes(self, bytes: &[u8]) -> bool {
        // What nearly all values are.
        if bytes.iter().all(|byte| (1..0x80).contains(byte)) {
            return true;
        }
        let text = |known: &dyn Fn(char) -> bool| {
            std::str::from_utf8(bytes).is_ok_and(|text| text.chars().all(known))
        };
        match self {
            Charset::Unknown => true,
            Charset::Bytes { nul } => nul || !bytes.contains(&0),
            Charset::Utf8 { longest, nul } => {
                (nul || !bytes.contains(&0)) && text(&|c| c.len_utf8() <= longest)
            }
            Charset::Latin1 { windows } => text(&|c| {
                ('\u{1}'..'\u{80}').contains(&c)
                    || ('\u{a0}'..='\u{ff}').contains(&c)
                    || windows && WINDOWS.contains(c)
            }),
            Charset::Ascii => false,
        }
    }

    /// The length of a text that it takes, in characters.
    pub fn count(self, bytes: &[u8]) -> usize {
        match self {
            Charset::Bytes { .. } => bytes.len(),
            _ => std::str::from_utf8(bytes).map_or(bytes.len(), |text| text.chars().count()),
        }
    }
}

/// What a text column of PostgreSQL takes: `client_encoding` says what the bytes
/// sent are, `server_encoding` what becomes of them.
pub fn postgres(client: &[u8], server: &[u8]) -> Charset {
    match (client, server) {
        (b"UTF8", b"UTF8" | b"SQL_ASCII") | (b"SQL_ASCII", b"UTF8") => {
            Charset::Utf8 { longest: 4, nul: false }
        }
        (b"UTF8", b"LATIN1") => Charset::Latin1 { windows: false },
        (b"UTF8", b"WIN1252") => Charset::Latin1 { windows: true },
        (b"SQL_ASCII" | b"LATIN1", b"SQL_ASCII" | b"LATIN1") | (b"LATIN1", b"UTF8") => {
            Charset::Bytes { nul: false }
        }
        _ => Charset::Unknown,
    }
}

/// What a text column of MySQL takes: `character_set_client`, and the column's.
pub fn mysql(client: &[u8], column: &[u8]) -> Charset {
    let longest = match client {
        b"utf8mb4" => 4,
        b"utf8mb3" | b"utf8" => 3,
        // Each has its place in every set that columns usually have.
        b"latin1" if matches!(column, b"latin1" | b"utf8mb4" | b"utf8mb3" | b"utf8") => {
            return Charset::Bytes { nul: true };
        }
        _ => return Charset::Unknown,
    };
    match column {
        b"utf8mb3" | b"utf8" => Charset::Utf8 { longest: 3, nul: true },
        b"utf8mb4" => Charset::Utf8 { longest, nul: true },
        b"latin1" => Charset::Latin1 { windows: true },
        b"ascii" => Charset::Ascii,
        _ => Charset::Unknown,
    }
}

/// The numbers that a column of this type takes, as they are read again; `None`
/// for another type.
pub fn range(dialect: Dialect, declared: &[u8]) -> Option<(i64, i64)> {
    let declared = declared.trim_ascii().to_ascii_lowercase();
    let is = |name: &str| declared.starts_with(name.as_bytes());
    let bits = match () {
        () if is("bigint") => 64,
        // Its driver reads 32 bits whatever the file has.
        () if dialect == Dialect::Sqlite
            && (is("int") || is("small") || is("tiny") || is("medium")) =>
        {
            32
        }
        () if is("int") => 32,
        () if is("mediumint") => 24,
        () if is("smallint") => 16,
        () if is("tinyint") => 8,
        () => return None,
    };
    let is_unsigned = declared.windows(8).any(|word| word == b"unsigned");
    match bits {
        64 => Some((if is_unsigned { 0 } else { i64::MIN }, i64::MAX)),
        // Drivers read it as a signed number of 32 bits.
        32 if is_unsigned => Some((0, i64::from(i32::MAX))),
        bits if is_unsigned => Some((0, (1 << bits) - 1)),
        bits => Some((-1 << (bits - 1), (1 << (bits - 1)) - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UTF8: Charset = Charset::Utf8 { longest: 4, nul: false };
    const UTF8MB3: Charset = Charset::Utf8 { longest: 3, nul: true };

    #[test]
    fn character_sets() {
        let taken = |charset: Charset| {
            [&b"plain"[..], "\u{e9}".as_bytes(), "\u{20ac}".as_bytes(), "\u{1f600}".as_bytes()]
                .into_iter()
                .chain([&b"\xff\xfe"[..], b"a\0b", b"\xed\xa0\x80", b"\xc0\x80"])
                .map(|bytes| if charset.takes(bytes) { '1' } else { '0' })
                .collect::<String>()
        };
        assert_eq!(taken(Charset::Unknown), "11111111");
        assert_eq!(taken(Charset::Bytes { nul: true }), "11111111");
        assert_eq!(taken(Charset::Bytes { nul: false }), "11111011");
        assert_eq!(taken(UTF8), "11110000");
        assert_eq!(taken(UTF8MB3), "11100100");
        assert_eq!(taken(Charset::Latin1 { windows: false }), "11000000");
        assert_eq!(taken(Charset::Latin1 { windows: true }), "11100000");
        assert_eq!(taken(Charset::Ascii), "10000000");
    }

    #[test]
    fn encodings() {
        assert_eq!(postgres(b"UTF8", b"UTF8"), Charset::Utf8 { longest: 4, nul: false });
        assert_eq!(postgres(b"SQL_ASCII", b"SQL_ASCII"), Charset::Bytes { nul: false });
        assert_eq!(postgres(b"EUC_JP", b"UTF8"), Charset::Unknown);
        assert_eq!(mysql(b"utf8mb4", b"utf8mb3"), Charset::Utf8 { longest: 3, nul: true });
        assert_eq!(mysql(b"utf8mb4", b"latin1"), Charset::Latin1 { windows: true });
        assert_eq!(mysql(b"latin1", b"utf8mb4"), Charset::Bytes { nul: true });
        assert_eq!(mysql(b"utf8mb3", b"utf8mb4"), Charset::Utf8 { longest: 3, nul: true });
        assert_eq!(mysql(b"big5", b"utf8mb4"), Charset::Unknown);
    }

    #[test]
    fn ranges() {
        let i32s = Some((i64::from(i32::MIN), i64::from(i32::MAX)));
        assert_eq!(range(Dialect::Postgres, b"integer"), i32s);
        assert_eq!(range(Dialect::Sqlite, b"INTEGER"), i32s);
        assert_eq!(range(Dialect::MySql, b"int(11)"), i32s);
        assert_eq!(range(Dialect::MySql, b"int(10) unsigned"), Some((0, i64::from(i32::MAX))));
        assert_eq!(range(Dialect::Postgres, b"bigint"), Some((i64::MIN, i64::MAX)));
        assert_eq!(range(Dialect::MySql, b"smallint(6)"), Some((-32768, 32767)));
        assert_eq!(range(Dialect::Postgres, b"character varying"), None);
    }

    proptest! {
        #[test]
        fn what_utf8_takes_can_be_read_as_such(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            prop_assert_eq!(
                UTF8.takes(&bytes),
                std::str::from_utf8(&bytes).is_ok() && !bytes.contains(&0)
            );
        }
    }
}
