//! Kamailio's declarations, as bindgen read them from its headers.
//!
//! Names are Kamailio's own. Everything here is raw; the rest of `host/` gives
//! it Rust types.

#![allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    rust_2018_idioms,
    unknown_lints,
    unnecessary_transmutes,
    unsafe_op_in_unsafe_fn,
    unused_qualifications,
    clippy::all,
    clippy::undocumented_unsafe_blocks
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

/// Sibling modules are compiled against these layouts, not against ours: a
/// release that changes one of them has to be looked at.
const _: () = {
    assert!(size_of::<presence_api_t>() == 184);
    assert!(size_of::<pres_ev>() == 152);
    assert!(size_of::<subscription>() == 352);
    assert!(size_of::<subs_entry_t>() == 16);
};
