//! A command in hand: reading its parameters, building its reply. The core's
//! functions take a format and as many arguments as it names.

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::ptr;

use crate::host::{sys, text};
use crate::presence::listing::Carrier;

/// No command has more parameters.
const MOST_WORDS: usize = 16;

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
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    /// `S`
    Text(&'a [u8]),
    /// `d`
    Signed(i64),
    /// `u`
    Unsigned(u32),
}

/// A field with its name.
pub type Field<'a> = (&'static CStr, Value<'a>);

/// What can be inside a record.
#[derive(Debug, Clone, Copy)]
pub enum Inner {
    /// Fields.
    Record,
    /// Records.
    Array,
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

    /// Reads all parameters, which are texts or numbers.
    pub fn words(&self) -> Vec<Vec<u8>> {
        let mut words = Vec::new();
        loop {
            let mut word = sys::_str::default();
            // SAFETY: the core passes its functions; the format names one text.
            let count = unsafe {
                match (*self.rpc).scan {
                    Some(scan) => {
                        scan(self.context, c"*.S".as_ptr().cast_mut(), ptr::from_mut(&mut word))
                    }
                    None => 0,
                }
            };
            if count < 1 || words.len() >= MOST_WORDS {
                return words;
            }
            // SAFETY: the core has filled it; a number is written where the next
            // one will be, so that it is copied.
            words.push(unsafe { text::bytes(word) }.to_vec());
        }
    }

    /// What the answer has to fit into. Of the core's transports only the binary one
    /// cannot say what it is capable of.
    pub fn carrier(&self) -> Carrier {
        // SAFETY: the core passes its functions.
        match unsafe { (*self.rpc).capabilities } {
            None => Carrier::Binary,
            Some(_) => Carrier::Json,
        }
    }

    /// Ends the command with a fault that is made of these texts.
    pub fn refuse(&self, reason: &[&[u8]]) {
        let reason = reason.concat();
        // SAFETY: the core passes its functions; the format takes a length and a
        // text of at least that, which the core copies.
        unsafe {
            if let Some(fault) = (*self.rpc).fault {
                let format = c"%.*s".as_ptr().cast_mut();
                let length = c_int::try_from(reason.len()).unwrap_or(0);
                fault(self.context, 500 as c_int, format, length, reason.as_ptr());
            }
        }
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

    /// A reply of one text, which may have many lines.
    pub fn text(&self, bytes: &[u8]) {
        let mut lent = text::lend(bytes);
        // SAFETY: the core passes its functions; `S` takes a `str`, which is copied.
        let added = unsafe {
            match (*self.rpc).add {
                Some(add) => add(self.context, c"S".as_ptr().cast_mut(), &raw mut lent),
                None => -1,
            }
        };
        if added < 0 {
            self.fault(c"Too long for an answer: raise ctl's binrpc_max_body_size");
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

impl Value<'_> {
    /// Bytes in an answer, with a name of this length.
    pub fn size(&self, carrier: Carrier, name: usize) -> usize {
        match self {
            Value::Text(bytes) => carrier.field(name, bytes),
            Value::Signed(_) | Value::Unsigned(_) => carrier.field(name, b"-2147483648"),
        }
    }
}

impl<'a> Record<'a> {
    /// Begins a record, or an array of records, inside this one.
    pub fn inner(&self, kind: Inner, name: &'static CStr) -> Option<Record<'a>> {
        let mut handle: *mut c_void = ptr::null_mut();
        let format = match kind {
            Inner::Record => c"{",
            Inner::Array => c"[",
        };
        // SAFETY: the core passes its functions; either format gives a handle.
        let added = unsafe {
            match (*self.call.rpc).struct_add {
                Some(add) => {
                    add(self.handle, format.as_ptr().cast_mut(), name.as_ptr(), &raw mut handle)
                }
                None => -1,
            }
        };
        if added < 0 {
            self.call.fault(c"Internal error adding item");
            return None;
        }
        Some(Record { call: self.call, handle })
    }

    /// Begins a record in an array.
    pub fn item(&self) -> Option<Record<'a>> {
        let mut handle: *mut c_void = ptr::null_mut();
        // SAFETY: the core passes its functions; `{` gives a handle.
        let added = unsafe {
            match (*self.call.rpc).array_add {
                Some(add) => add(self.handle, c"{".as_ptr().cast_mut(), &raw mut handle),
                None => -1,
            }
        };
        if added < 0 {
            self.call.fault(c"Internal error adding item");
            return None;
        }
        Some(Record { call: self.call, handle })
    }

    /// Adds fields; false after a fault.
    pub fn add(&self, fields: &[Field<'_>]) -> bool {
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
