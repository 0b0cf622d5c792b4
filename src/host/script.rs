//! Values that the script sets for us, or we for the script.

use crate::host::log::log_error;
use crate::host::{sys, text};

/// The number in `$xavp(root=>child)`, if there is one.
pub fn xavp_number(root: &[u8], child: &[u8]) -> Option<i64> {
    let (mut root, mut child) = (text::lend(root), text::lend(child));
    let mut number = 0;
    // SAFETY: the names are only read, the number is written; the lists are
    // this process's own.
    let found = unsafe { sys::kshim_xavp_number(&raw mut root, &raw mut child, &raw mut number) };
    (found > 0).then_some(number)
}

/// Adds an AVP with a numeric id.
pub fn set_avp(id: i32, value: &[u8]) {
    let mut value = text::lend(value);
    // SAFETY: the value is copied.
    if unsafe { sys::kshim_set_avp(id, &raw mut value) } < 0 {
        log_error!("AVP {id} could not be set");
    }
}
