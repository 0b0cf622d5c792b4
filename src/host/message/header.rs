//! One header field, and which form of it counts (A16).
//!
//! A header is text until somebody parses it; from then on the host, and every
//! module that changes it "in place", goes by the parsed form. nathelper's
//! `fix_nated_contact()` and `set_contact_alias()` and nat_traversal's
//! `fix_contact()` rewrite the URI of a parsed Contact and leave its text alone.
//! What other functions change is a list of changes to the text (lumps), which
//! nobody reads before `msg_apply_changes()` has made a new, unparsed message of
//! it. So text may be read while there is nothing else, and only then: a value
//! that can be parsed in more than one way is had from `untouched` or `parsed`.
//!
//! `text` is for headers that have no parsed form, or one that no function of
//! the host changes: Event, Expires, Content-Type, Call-ID and the like.

use std::ffi::c_int;
use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::host::{sys, text};

/// A header field of the request in hand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header<'a> {
    field: NonNull<sys::hdr_field>,
    message: PhantomData<&'a [u8]>,
}

impl<'a> Header<'a> {
    /// Around a field; `None` for NULL.
    ///
    /// # Safety
    /// `field` is NULL or belongs to the list of headers of the request in
    /// hand, which stays for `'a`.
    pub(super) unsafe fn new(field: *mut sys::hdr_field) -> Option<Header<'a>> {
        Some(Header { field: NonNull::new(field)?, message: PhantomData })
    }

    fn field(self) -> &'a sys::hdr_field {
        // SAFETY: `new` was promised a field that lives for `'a`; parsing adds
        // to it between, not during, uses of this reference.
        unsafe { self.field.as_ref() }
    }

    /// Its text, without white space around it.
    pub(super) fn text(self) -> &'a [u8] {
        // SAFETY: a field's value points into the message's text.
        text::trimmed(unsafe { text::bytes(self.field().body) })
    }

    /// Its name as spelled.
    pub(super) fn name(self) -> &'a [u8] {
        // SAFETY: a field's name points into the message's text.
        unsafe { text::bytes(self.field().name) }
    }

    /// The host's number for its name.
    pub(super) fn kind(self) -> sys::_hdr_types_t {
        self.field().type_
    }

    /// Its text, as long as nobody has parsed it.
    pub(super) fn untouched(self) -> Option<&'a [u8]> {
        self.field().parsed.is_null().then(|| self.text())
    }

    /// Its parsed form as it is now; `parse` makes one if there is none yet.
    /// `None` if it cannot be parsed.
    ///
    /// # Safety
    /// `parse` is the host's parser of this kind of header, and makes a `T`
    /// that lives as long as the message.
    pub(super) unsafe fn parsed<T>(
        self,
        parse: unsafe extern "C" fn(*mut sys::hdr_field) -> c_int,
    ) -> Option<&'a T> {
        // SAFETY: the field is valid; a parser completes it, once.
        if self.field().parsed.is_null() && unsafe { parse(self.field.as_ptr()) } < 0 {
            return None;
        }
        // SAFETY: `parse` has left a `T` there, as the host's parser of this kind
        // of header does; it stays with the message.
        unsafe { self.field().parsed.cast::<T>().as_ref() }
    }

    /// The header behind it in the message.
    pub(super) fn next(self) -> Option<Header<'a>> {
        // SAFETY: a message's list of headers links to its own.
        unsafe { Header::new(self.field().next) }
    }

    /// The next header of the same name.
    pub(super) fn sibling(self) -> Option<Header<'a>> {
        std::iter::successors(self.next(), |header| header.next())
            .find(|header| header.kind() == self.kind())
    }

    /// Where the header behind it begins in the message's text.
    pub(super) fn end(self) -> *const std::ffi::c_char {
        let field = self.field();
        field.name.s.wrapping_add(usize::try_from(field.len).unwrap_or(0))
    }
}
