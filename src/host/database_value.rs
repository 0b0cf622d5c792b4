//! Values and rows of the database API.

use std::ffi::{CStr, c_int};

use crate::host::{sys, text};
use crate::ports::Value;

/// Column names as the API wants them: an array of pointers to `str`.
pub struct Keys {
    // Holds what `pointers` point to; never resized after that.
    _texts: Vec<sys::_str>,
    pointers: Vec<sys::db_key_t>,
}

impl Keys {
    /// From column names, which outlive it.
    pub fn new(names: impl Iterator<Item = &'static str>) -> Keys {
        let mut texts: Vec<sys::_str> = names.map(|name| text::lend(name.as_bytes())).collect();
        let pointers = texts.iter_mut().map(std::ptr::from_mut).collect();
        Keys { _texts: texts, pointers }
    }

    /// The array; NULL if there are none, as the API has it.
    pub fn as_ptr(&self) -> *const sys::db_key_t {
        if self.pointers.is_empty() { std::ptr::null() } else { self.pointers.as_ptr() }
    }

    /// How many.
    pub fn count(&self) -> c_int {
        c_int::try_from(self.pointers.len()).unwrap_or(c_int::MAX)
    }
}

/// A value for a statement; looks at the text of `given`.
pub fn lend(given: &Value) -> sys::db_val_t {
    let mut value = sys::db_val_t::default();
    match given {
        Value::Null => {
            value.type_ = sys::db_type_t_DB1_STR;
            value.nul = 1;
        }
        Value::Int(number) => match i32::try_from(*number) {
            Ok(number) => {
                value.type_ = sys::db_type_t_DB1_INT;
                value.val.int_val = number;
            }
            // Times after 2038 and unsigned columns.
            Err(_) => {
                value.type_ = sys::db_type_t_DB1_BIGINT;
                value.val.ll_val = *number;
            }
        },
        Value::Text(bytes) => {
            value.type_ = sys::db_type_t_DB1_STR;
            value.val.str_val = text::lend(bytes);
        }
        Value::Blob(bytes) => {
            value.type_ = sys::db_type_t_DB1_BLOB;
            value.val.blob_val = text::lend(bytes);
        }
    }
    value
}

/// Copies a value that a driver returned, whatever type it chose.
///
/// # Safety
/// `value` is from a result that is not freed yet.
unsafe fn copied(value: &sys::db_val_t) -> Value {
    if value.nul != 0 {
        return Value::Null;
    }
    // SAFETY: the type says which member of the union the driver set; text
    // and blobs point into the result.
    unsafe {
        match value.type_ {
            sys::db_type_t_DB1_INT => Value::Int(i64::from(value.val.int_val)),
            sys::db_type_t_DB1_UINT => Value::Int(i64::from(value.val.uint_val)),
            sys::db_type_t_DB1_BITMAP => Value::Int(i64::from(value.val.bitmap_val)),
            sys::db_type_t_DB1_BIGINT => Value::Int(value.val.ll_val),
            sys::db_type_t_DB1_UBIGINT => {
                Value::Int(i64::try_from(value.val.ull_val).unwrap_or(i64::MAX))
            }
            sys::db_type_t_DB1_DATETIME => Value::Int(value.val.time_val),
            // `as` saturates.
            sys::db_type_t_DB1_DOUBLE => Value::Int(value.val.double_val as i64),
            sys::db_type_t_DB1_STRING if value.val.string_val.is_null() => Value::Null,
            sys::db_type_t_DB1_STRING => {
                Value::Text(CStr::from_ptr(value.val.string_val).to_bytes().to_vec())
            }
            sys::db_type_t_DB1_STR => Value::Text(text::bytes(value.val.str_val).to_vec()),
            sys::db_type_t_DB1_BLOB => Value::Blob(text::bytes(value.val.blob_val).to_vec()),
            _ => Value::Null,
        }
    }
}

/// Gives every row of a result, or of a page of one, to `each`; returns how
/// many there were.
///
/// # Safety
/// `result` is NULL or a result that is not freed yet.
pub unsafe fn rows(result: *mut sys::db1_res_t, each: &mut dyn FnMut(&[Value])) -> usize {
    // SAFETY: a driver's result or NULL; the caller frees it after this.
    let Some(result) = (unsafe { result.as_ref() }) else { return 0 };
    let count = usize::try_from(result.n).unwrap_or(0);
    if result.rows.is_null() {
        return 0;
    }
    let mut row = Vec::new();
    for at in 0..count {
        row.clear();
        // SAFETY: the result has `n` rows, each with `n` values.
        unsafe {
            let found = &*result.rows.add(at);
            let columns = usize::try_from(found.n).unwrap_or(0);
            if !found.values.is_null() {
                row.extend((0..columns).map(|column| copied(&*found.values.add(column))));
            }
        }
        each(&row);
    }
    count
}
