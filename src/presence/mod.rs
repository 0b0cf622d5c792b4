//! The domain: SIP presence without I/O, clock, storage or host. Values in,
//! decisions out; nothing here can block, fail for lack of memory in shared
//! segments, or touch foreign pointers.

pub mod content_type;
pub mod cseq;
pub mod cseq_floor;
pub mod demands;
pub mod dialog_info;
pub mod entity_tag;
pub mod event_package;
pub mod expires;
pub mod explain;
pub mod folding;
pub mod header_values;
pub mod limits;
pub mod listing;
pub mod measures;
pub mod name_addr;
pub mod next_hop;
pub mod notify_fate;
pub mod notify_headers;
pub mod pidf;
pub mod presentity;
pub mod publication;
pub mod registry;
pub mod renewal;
pub mod replication;
pub mod request;
pub mod state_version;
pub mod subscription;
pub mod text;
pub mod transition;
pub mod uri;
pub mod winfo;
