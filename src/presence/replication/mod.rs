//! What servers tell each other over DMQ: the stock module's messages, read with
//! strict judging (B37), and the order of changes that different servers make.

pub mod cseq_blocks;
pub mod header;
pub mod json;
pub mod message;
pub mod ownership;
pub mod publication_message;
pub mod stamp;
pub mod subscription_message;
pub mod update;
