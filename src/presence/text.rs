//! Several short strings packed into one block of bytes: a record's text costs
//! one allocation, and copying a record out of shared memory is one `memcpy`.

use std::marker::PhantomData;

/// The strings of a record, each named by a variant.
pub trait Fields: Copy {
    /// How many fields there are.
    const COUNT: usize;
    /// Position of this field, below `COUNT`.
    fn index(self) -> usize;
}

/// A field was too long to be packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

/// Collects fields into a block: `COUNT` little-endian u16 end offsets, then
/// the text of all fields in order.
pub fn pack<'a, F: Fields>(value: impl Fn(usize) -> &'a [u8]) -> Result<Vec<u8>, TooLong> {
    let length: usize = (0..F::COUNT).map(|field| value(field).len()).sum();
    if length > usize::from(u16::MAX) {
        return Err(TooLong);
    }
    let mut block = Vec::with_capacity(F::COUNT * 2 + length);
    let mut end = 0;
    for field in 0..F::COUNT {
        end += value(field).len();
        block.extend_from_slice(&(end as u16).to_le_bytes());
    }
    for field in 0..F::COUNT {
        block.extend_from_slice(value(field));
    }
    Ok(block)
}

/// Appends a number in decimal digits: what `format!` costs more for.
pub fn push_decimal(out: &mut Vec<u8>, mut number: u32) {
    let mut digits = [0u8; 10];
    let mut start = digits.len();
    while start > 0 {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Appends bytes in hexadecimal digits.
pub fn push_hexadecimal(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

/// A view of a packed block.
#[derive(Debug)]
pub struct Packed<'a, F> {
    block: &'a [u8],
    fields: PhantomData<F>,
}

impl<F> Clone for Packed<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Packed<'_, F> {}

impl<'a, F: Fields> Packed<'a, F> {
    /// Looks at a block that `pack` made.
    pub fn new(block: &'a [u8]) -> Packed<'a, F> {
        Packed { block, fields: PhantomData }
    }

    /// One field; empty if the block is not of this kind.
    pub fn get(self, field: F) -> &'a [u8] {
        let start = match field.index() {
            0 => Some(0),
            n => self.end(n - 1),
        };
        let text = self.block.get(F::COUNT * 2..).unwrap_or_default();
        match (start, self.end(field.index())) {
            (Some(start), Some(end)) => text.get(start..end).unwrap_or_default(),
            _ => b"",
        }
    }

    fn end(self, field: usize) -> Option<usize> {
        let bytes = self.block.get(field * 2..field * 2 + 2)?;
        Some(usize::from(u16::from_le_bytes([bytes[0], bytes[1]])))
    }

    /// The whole block.
    pub fn block(self) -> &'a [u8] {
        self.block
    }
}

/// Declares an enum of text fields.
macro_rules! fields {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$field_doc])* $field),+ }

        impl $crate::presence::text::Fields for $name {
            const COUNT: usize = [$($name::$field),+].len();
            fn index(self) -> usize { self as usize }
        }

        impl $name {
            /// All fields in their packed order.
            pub const ALL: &'static [$name] = &[$($name::$field),+];
        }
    };
}
pub(crate) use fields;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fields! {
        /// Test fields.
        Letters { /// a
            A, /// b
            B, /// c
            C }
    }

    #[test]
    fn fields_come_back() {
        let texts = [b"one".to_vec(), Vec::new(), b"three".to_vec()];
        let block = pack::<Letters>(|n| texts[n].as_slice()).unwrap_or_default();
        for field in Letters::ALL {
            assert_eq!(Packed::new(&block).get(*field), texts[field.index()]);
        }
    }

    #[test]
    fn a_strange_block_has_empty_fields() {
        for block in [&b""[..], b"\x01", b"\xff\xff\x00\x00\xff\x00ab"] {
            for field in Letters::ALL {
                assert!(Packed::new(block).get(*field).is_empty());
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(pack::<Letters>(|_| &[0; 40_000]), Err(TooLong));
        assert!(pack::<Letters>(|_| &[0; 21_845]).is_ok());
    }

    proptest! {
        #[test]
        fn digits_are_those_of_format(number: u32, bytes: [u8; 16]) {
            let mut out = Vec::new();
            push_decimal(&mut out, number);
            out.push(b' ');
            push_hexadecimal(&mut out, &bytes);
            let expected = format!("{number} {:032x}", u128::from_be_bytes(bytes));
            prop_assert_eq!(out, expected.into_bytes());
        }
    }
}
