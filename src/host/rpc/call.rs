//! A command in hand: reading its parameters, building its reply. The core's
//! functions take a format and as many arguments as it names.

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::ptr;

use crate::host::{sys, text};

/// A command being served.
pub struct Call {
    /// The core's functions, valid during the command.
    pub rpc: *mut sys::rpc,
    /// What they want to be told.
    pub context: *mut c_void,
}

/// Where the fields of one record go.
pub struct Record<'a> {
    call: &'a Call,
    handle: *mut c_void,
}

/// A field's value.
pub enum Value<'a> {
    /// `S`
    Text(&'a [u8]),
    /// `d`
    Signed(i64),
    /// `u`
    Unsigned(u32),
}

impl Call {
    /// Reads parameters into `into`; gives how many there were.
    pub fn texts<const N: usize>(&self, format: &'static CStr) -> (c_int, [sys::_str; N]) {
        let mut texts = [sys::_str::default(); N];
        let mut places = texts.iter_mut().map(ptr::from_mut);
        let mut place = || places.next().unwrap_or(ptr::null_mut());
        let (one, two, three) = (place(), place(), place());
        // SAFETY: the core passes its functions; the format names at most
        // three texts, and surplus arguments are not looked at.
        let count = unsafe {
            match (*self.rpc).scan {
                Some(scan) => scan(self.context, format.as_ptr().cast_mut(), one, two, three),
                None => 0,
            }
        };
        (count, texts)
    }

    /// Ends the command with a fault, code 500.
    pub fn fault(&self, reason: &'static CStr) {
        // SAFETY: the core passes its functions; the text is a literal
        // without conversions.
        unsafe {
            if let Some(fault) = (*self.rpc).fault {
                fault(self.context, 500 as c_int, reason.as_ptr().cast_mut());
            }
        }
    }

    /// A reply of one line.
    pub fn print(&self, line: &'static CStr) {
        // SAFETY: as for `fault`.
        unsafe {
            if let Some(print) = (*self.rpc).rpl_printf {
                print(self.context, line.as_ptr().cast_mut());
            }
        }
    }

    /// Begins a record of the reply.
    pub fn record(&self) -> Option<Record<'_>> {
        let mut handle: *mut c_void = ptr::null_mut();
        // SAFETY: the core passes its functions; `{` gives a handle.
        let added = unsafe {
            match (*self.rpc).add {
                Some(add) => add(self.context, c"{".as_ptr().cast_mut(), &raw mut handle),
                None => -1,
            }
        };
        if added < 0 {
            self.fault(c"Internal error creating rpc");
            return None;
        }
        Some(Record { call: self, handle })
    }
}

impl Record<'_> {
    /// Adds fields; false after a fault.
    pub fn add(&self, fields: &[(&'static CStr, Value<'_>)]) -> bool {
        // SAFETY: the core passes its functions; each format has the type of
        // its argument, and texts are copied.
        let all = unsafe {
            let Some(add) = (*self.call.rpc).struct_add else { return false };
            let add_one = |format: &'static CStr, name: &'static CStr, value: &Value<'_>| {
                let (format, name) = (format.as_ptr().cast_mut(), name.as_ptr());
                match value {
                    Value::Text(bytes) => {
                        let mut lent = text::lend(bytes);
                        add(self.handle, format, name, &raw mut lent)
                    }
                    Value::Signed(number) => {
                        let number = i32::try_from(*number).unwrap_or(i32::MAX);
                        add(self.handle, format, name, number as c_int)
                    }
                    Value::Unsigned(number) => add(self.handle, format, name, *number as c_uint),
                }
            };
            fields.iter().all(|(name, value)| {
                let format = match value {
                    Value::Text(_) => c"S",
                    Value::Signed(_) => c"d",
                    Value::Unsigned(_) => c"u",
                };
                add_one(format, name, value) >= 0
            })
        };
        if !all {
            self.call.fault(c"Internal error adding item");
        }
        all
    }
}
