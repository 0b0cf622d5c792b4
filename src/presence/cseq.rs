//! CSeq numbers (RFC 3261 8.1.1.5). Each side of a dialog counts its own requests, and
//! the NOTIFYs of a subscription are ours (RFC 3261 12.2.1.1).

/// The number in the CSeq of a request. Versions of documents, counts and offsets are
/// plain numbers: they cannot be taken for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CSeq(pub u32);

impl CSeq {
    /// A request may have it: it is less than 2^31.
    pub fn is_valid(self) -> bool {
        self.0 < 1 << 31
    }

    /// The number of the request that comes so many later.
    pub fn wrapping_add(self, count: u32) -> CSeq {
        CSeq(self.0.wrapping_add(count))
    }

    /// The number of the request that came so many earlier.
    pub fn wrapping_sub(self, count: u32) -> CSeq {
        CSeq(self.0.wrapping_sub(count))
    }

    /// So many requests lie between the other number and this one.
    pub fn since(self, other: CSeq) -> u32 {
        self.0.wrapping_sub(other.0)
    }

    /// The number of the request that comes so many later, or the last one there is.
    pub fn saturating_add(self, count: u32) -> CSeq {
        CSeq(self.0.saturating_add(count))
    }

    /// The number of the request that came so many earlier, or 0.
    pub fn saturating_sub(self, count: u32) -> CSeq {
        CSeq(self.0.saturating_sub(count))
    }
}
