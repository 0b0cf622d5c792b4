//! Module parameters: what the configuration file gives, handed to
//! `config.rs` before any module is initialised.

use std::ffi::{CStr, c_char};

use crate::config::ParameterValue;
use crate::host::log::log_error;
use crate::host::{module, sys, text};

/// Takes one parameter from the shim: `content` for text, else `number`.
///
/// # Safety
/// `name` is a terminated string, `content` NULL or a valid `str`.
pub unsafe fn set(name: *const c_char, content: *const sys::_str, number: i64) -> bool {
    // SAFETY: the shim passes a string literal.
    let name = unsafe { CStr::from_ptr(name) }.to_str().unwrap_or_default();
    // SAFETY: the core keeps the value during the call; it is copied here.
    let value = match unsafe { text::pointed(content) } {
        Some(text) => ParameterValue::Text(text.to_vec()),
        None => ParameterValue::Int(number),
    };
    match module::set_parameter(name, value) {
        Ok(()) => true,
        Err(reason) => {
            log_error!("{reason}");
            false
        }
    }
}
