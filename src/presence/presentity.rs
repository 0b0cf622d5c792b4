//! Which presentity a request, a record or a row is about.

use crate::presence::event_package::PackageId;
use crate::presence::uri::user;

/// Which presentity, in which package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresentityKey {
    /// `uri::identity`.
    pub identity: Vec<u8>,
    /// User as spelled (`uri::user::stored`).
    pub user: Vec<u8>,
    /// Host in lower case.
    pub host: Vec<u8>,
    /// The event package.
    pub package: PackageId,
}

impl PresentityKey {
    /// Gives the key in each spelling that the rows of others may have (B46).
    pub fn spellings(&self) -> Vec<PresentityKey> {
        let spelled = |user| PresentityKey { user, ..self.clone() };
        user::spellings(&self.user).into_iter().map(spelled).collect()
    }
}
