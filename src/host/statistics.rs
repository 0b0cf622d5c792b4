//! Statistics of this module, as the host's commands (`stats.fetch`, `cnt.get`) and
//! `$stat()` show them.

use std::ffi::{CStr, c_long};

use crate::host::{boundary, state, sys};

/// Requests refused by limits (A14).
const REFUSED: &CStr = c"refused_by_limits";

/// Registers them; to be called in mod_init.
pub fn register() -> Result<(), String> {
    // SAFETY: the name is static; the core keeps the function, which stays while
    // the server runs, and writes to neither.
    match unsafe { sys::kshim_statistic(REFUSED.as_ptr().cast_mut(), Some(refused)) } {
        0.. => Ok(()),
        _ => Err("the statistics could not be registered".into()),
    }
}

unsafe extern "C" fn refused() -> c_long {
    boundary::enter("refused_by_limits", 0, || {
        let count = state::server().map_or(0, |server| server.store.tally().refusals());
        c_long::try_from(count).unwrap_or(c_long::MAX)
    })
}
