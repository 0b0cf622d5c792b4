//! What is counted, by name: requests by their answer, NOTIFYs by what became of
//! them, statements by kind, times and sizes by classes.

use crate::presence::subscription::Status;

/// A kind of request that is answered here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// RFC 3903.
    Publish,
    /// RFC 6665.
    Subscribe,
}

impl Method {
    /// Both.
    pub const ALL: [Method; 2] = [Method::Publish, Method::Subscribe];

    /// As requests spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Method::Publish => "PUBLISH",
            Method::Subscribe => "SUBSCRIBE",
        }
    }
}

/// The final answer to a request, by class; those that say something of their own
/// have one for themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// 2xx.
    Accepted,
    /// 403: the rules, or the operator's, say no.
    Forbidden,
    /// 412: no publication of this entity-tag.
    Conditional,
    /// 423: too short.
    Interval,
    /// 481: no such dialog.
    Unknown,
    /// 489: no such event package.
    Event,
    /// Any other refusal that is the client's doing, or that a sibling gave.
    Other,
    /// 5xx and 6xx: the server's doing, or a limit.
    Fault,
}

impl Answer {
    /// All of them.
    pub const ALL: [Answer; 8] = [
        Answer::Accepted,
        Answer::Forbidden,
        Answer::Conditional,
        Answer::Interval,
        Answer::Unknown,
        Answer::Event,
        Answer::Other,
        Answer::Fault,
    ];

    /// The class of a final status code.
    pub const fn of(code: u16) -> Answer {
        match code {
            200..300 => Answer::Accepted,
            403 => Answer::Forbidden,
            412 => Answer::Conditional,
            423 => Answer::Interval,
            481 => Answer::Unknown,
            489 => Answer::Event,
            500.. => Answer::Fault,
            _ => Answer::Other,
        }
    }

    /// Value of the label `result`.
    pub const fn label(self) -> &'static str {
        match self {
            Answer::Accepted => "2xx",
            Answer::Forbidden => "403",
            Answer::Conditional => "412",
            Answer::Interval => "423",
            Answer::Unknown => "481",
            Answer::Event => "489",
            Answer::Other => "other",
            Answer::Fault => "5xx",
        }
    }
}

/// What a NOTIFY says of its subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateShown {
    /// It is active.
    Active,
    /// It waits for a decision.
    Pending,
    /// It is over.
    Terminated,
}

impl StateShown {
    /// All of them.
    pub const ALL: [StateShown; 3] =
        [StateShown::Active, StateShown::Pending, StateShown::Terminated];

    /// Of a subscription of this state.
    pub const fn of(status: Status) -> StateShown {
        match status {
            Status::Active => StateShown::Active,
            Status::Pending | Status::Waiting => StateShown::Pending,
            Status::Terminated => StateShown::Terminated,
        }
    }

    /// Value of the label `state`.
    pub const fn label(self) -> &'static str {
        match self {
            StateShown::Active => "active",
            StateShown::Pending => "pending",
            StateShown::Terminated => "terminated",
        }
    }
}

/// What became of a NOTIFY. One that is sent has one of the three results after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotifyResult {
    /// It was handed to the network.
    Sent,
    /// It was answered with 2xx.
    Accepted,
    /// It was answered otherwise, or its transaction failed.
    Failed,
    /// Nobody has answered.
    TimedOut,
    /// It could not be sent, and is not tried again.
    Unsent,
    /// The script has dropped it.
    Dropped,
}

impl NotifyResult {
    /// All of them.
    pub const ALL: [NotifyResult; 6] = [
        NotifyResult::Sent,
        NotifyResult::Accepted,
        NotifyResult::Failed,
        NotifyResult::TimedOut,
        NotifyResult::Unsent,
        NotifyResult::Dropped,
    ];

    /// What the answer to a NOTIFY says; `received` is false for one that the host
    /// has made itself.
    pub const fn answered(code: u16, received: bool) -> NotifyResult {
        match (code, received) {
            (200..300, _) => NotifyResult::Accepted,
            (408, false) => NotifyResult::TimedOut,
            _ => NotifyResult::Failed,
        }
    }

    /// Value of the label `result`.
    pub const fn label(self) -> &'static str {
        match self {
            NotifyResult::Sent => "sent",
            NotifyResult::Accepted => "2xx",
            NotifyResult::Failed => "failed",
            NotifyResult::TimedOut => "timeout",
            NotifyResult::Unsent => "unsent",
            NotifyResult::Dropped => "dropped",
        }
    }
}

/// Kinds of database statements, a batch of many rows being one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statement {
    /// Rows are read.
    Select,
    /// Rows are added.
    Insert,
    /// Rows are changed.
    Update,
    /// Rows are removed.
    Delete,
    /// A transaction begins or ends.
    Transaction,
}

impl Statement {
    /// All of them.
    pub const ALL: [Statement; 5] = [
        Statement::Select,
        Statement::Insert,
        Statement::Update,
        Statement::Delete,
        Statement::Transaction,
    ];

    /// Value of the label `statement`.
    pub const fn label(self) -> &'static str {
        match self {
            Statement::Select => "select",
            Statement::Insert => "insert",
            Statement::Update => "update",
            Statement::Delete => "delete",
            Statement::Transaction => "transaction",
        }
    }
}

/// What is counted without any label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Total {
    /// Statements that the database has not done.
    DatabaseErrors,
    /// Statements and transactions that were repeated.
    DatabaseRetries,
    /// Answers to requests that could not be sent.
    Unanswered,
    /// Requests that came again, and were answered as before or left to whoever
    /// was at them.
    Repeated,
    /// Lanes that a sender process keeps for another attempt; counts up and down.
    Waiting,
}

impl Total {
    /// All of them.
    pub const ALL: [Total; 5] = [
        Total::DatabaseErrors,
        Total::DatabaseRetries,
        Total::Unanswered,
        Total::Repeated,
        Total::Waiting,
    ];
}

/// Upper ends of the classes of times, in microseconds.
pub const TIMES: [u64; 13] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 2_000_000,
    10_000_000,
];

/// Upper ends of the classes of fan-outs, in watchers.
pub const SIZES: [u64; 11] = [1, 2, 5, 10, 20, 50, 100, 500, 1_000, 10_000, 100_000];

/// The class of a value: the first whose end is not below it, or the one after all.
pub fn class(ends: &[u64], value: u64) -> usize {
    ends.iter().take_while(|end| **end < value).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_final_answer_has_a_class() {
        let special = [403, 412, 423, 481, 489];
        for code in 200..700 {
            let expected = match code {
                200..300 => "2xx".to_owned(),
                500.. => "5xx".to_owned(),
                code if special.contains(&code) => code.to_string(),
                _ => "other".to_owned(),
            };
            assert_eq!(Answer::of(code).label(), expected);
        }
    }

    #[test]
    fn a_time_out_is_what_nobody_has_sent() {
        assert_eq!(NotifyResult::answered(202, true), NotifyResult::Accepted);
        assert_eq!(NotifyResult::answered(408, false), NotifyResult::TimedOut);
        assert_eq!(NotifyResult::answered(408, true), NotifyResult::Failed);
        assert_eq!(NotifyResult::answered(477, false), NotifyResult::Failed);
        assert_eq!(NotifyResult::answered(481, true), NotifyResult::Failed);
    }

    #[test]
    fn a_class_includes_its_end() {
        assert_eq!([0, 1, 2, 3, 100_000, 100_001].map(|n| class(&SIZES, n)), [0, 0, 1, 2, 10, 11]);
        assert!(TIMES.is_sorted() && SIZES.is_sorted());
    }
}
