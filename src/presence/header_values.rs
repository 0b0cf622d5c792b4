//! Headers that a request may have several times.

/// The values of all headers of one name, in received order. There is mostly
/// none or one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values<'a> {
    first: Option<&'a [u8]>,
    more: Vec<&'a [u8]>,
}

impl<'a> Values<'a> {
    /// Adds the value of one more header; an empty one does not count.
    pub fn push(&mut self, value: &'a [u8]) {
        match self.first {
            _ if value.is_empty() => {}
            None => self.first = Some(value),
            Some(_) => self.more.push(value),
        }
    }

    /// Each header's value.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> {
        self.first.iter().chain(&self.more).copied()
    }

    /// There is no such header.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }
}

impl<'a> FromIterator<&'a [u8]> for Values<'a> {
    fn from_iter<T: IntoIterator<Item = &'a [u8]>>(headers: T) -> Self {
        let mut values = Values::default();
        headers.into_iter().for_each(|value| values.push(value));
        values
    }
}
