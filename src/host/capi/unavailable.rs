//! Members of the interface that this version does not have. They report an
//! error and say so in the log, so that nobody waits for an effect.

use std::ffi::{c_char, c_int};
use std::ptr;

use crate::host::log::log_error;
use crate::host::{boundary, sys};

macro_rules! unavailable {
    ($($name:ident($($argument:ty),*) -> $result:ty = $value:expr;)+) => {$(
        #[doc = concat!("`", stringify!($name), "`: always the error value.")]
        pub unsafe extern "C" fn $name($(_: $argument),*) -> $result {
            boundary::enter(stringify!($name), $value, || {
                log_error!(
                    "a module called {}, which this presence module does not have yet",
                    stringify!($name)
                );
                $value
            })
        }
    )+};
}

unavailable! {
    update_watchers_status(*mut sys::_str, *mut sys::pres_ev_t, *mut sys::_str) -> c_int = -1;
    update_db_subs_timer(
        *mut sys::db1_con_t, *mut sys::db_func_t, sys::shtable_t, c_int, c_int,
        sys::handle_expired_func_t
    ) -> () = ();
    extract_sdialog_info(
        *mut sys::subs_t, *mut sys::sip_msg, c_int, *mut c_int, sys::_str, sys::_str, sys::_str
    ) -> c_int = -1;
    get_sphere(*mut sys::_str) -> *mut c_char = ptr::null_mut();
    get_presentity(sys::_str, *mut sys::pres_ev_t, *mut sys::_str, *mut sys::_str)
        -> *mut sys::_str = ptr::null_mut();
    pres_auth_status(*mut sys::sip_msg, sys::_str, sys::_str) -> c_int = -1;
    handle_publish(*mut sys::sip_msg, *mut c_char, *mut c_char) -> c_int = -1;
    handle_subscribe0(*mut sys::sip_msg) -> c_int = -1;
    handle_subscribe(*mut sys::sip_msg, sys::_str, sys::_str) -> c_int = -1;
    update_presentity(
        *mut sys::_str, *mut sys::_str, *mut sys::_str, *mut sys::_str, *mut sys::_str,
        *mut sys::_str, c_int, c_int, c_int
    ) -> c_int = -1;
    pres_refresh_watchers(*mut sys::_str, *mut sys::_str, c_int) -> c_int = -1;
}
