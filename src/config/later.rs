//! Features that this version does not have yet. A configuration that relies
//! on one is refused when Kamailio starts, not surprised later. A row goes
//! when its feature comes; nothing else has to change.

use super::parameters::{ConfigError, ParameterValue};

/// The values of a parameter that work today.
enum Works {
    /// One of these numbers.
    Numbers(&'static [i64]),
    /// This text.
    Text(&'static str),
}

/// Parameter, the values that work, and what to do instead.
const LATER: &[(&str, Works, &str)] = &[
    ("enable_subs_dmq", Works::Numbers(&[0]), "use 0"),
    ("enable_subs_sync_dmq", Works::Numbers(&[0, 1]), "leave it out"),
    ("default_socket", Works::Text(""), "leave it out"),
];

/// Refuses the value of a parameter that this version cannot honour.
pub(super) fn check(value: impl Fn(&str) -> Option<ParameterValue>) -> Result<(), ConfigError> {
    for (name, works, instead) in LATER {
        let Some(value) = value(name) else { continue };
        let fine = match (works, &value) {
            (Works::Numbers(numbers), ParameterValue::Int(number)) => numbers.contains(number),
            (Works::Text(text), ParameterValue::Text(given)) => text.as_bytes() == given,
            _ => false,
        };
        if !fine {
            return Err(ConfigError::Later { name, value, instead });
        }
    }
    Ok(())
}
