//! What the error numbers of servers mean for a statement that is repeated.

use crate::ports::Verdict;

/// The error numbers of MySQL and MariaDB.
pub fn mysql(code: i64) -> Verdict {
    match code {
        // A lock was not got in time, a deadlock (also one that the nodes of a cluster
        // find at the commit), a row that another transaction has changed meanwhile, a
        // statement that took too long. (1180, a COMMIT that has failed, may have been
        // carried out.)
        1205 | 1213 | 1020 | 1317 | 1969 | 3024 | 3058 | 3572 | 4121 => Verdict::Conflict,
        // Full, out of memory, stopping, read-only, not in its cluster; a table that is
        // broken or missing, of another form, or not ours to change.
        1030 | 1034 | 1036 | 1044 | 1045 | 1054 | 1142 | 1143 | 1146 | 1194 | 1195 | 1223
        | 1021 | 1037 | 1038 | 1040 | 1041 | 1053 | 1114 | 1135 | 1203 | 1226 | 1290 | 1792
        | 1836 | 1047 | 3100 | 3101 => Verdict::Away,
        // Values: NULL, of another type or character set, too long, too large,
        // there already, refused by a constraint or trigger, too big a packet.
        1048 | 1062 | 1118 | 1138 | 1153 | 1169 | 1216 | 1217 | 1264 | 1265 | 1267 | 1292
        | 1300 | 1364 | 1366 | 1367 | 1406 | 1451 | 1452 | 1525 | 1557 | 1644 | 1690 | 3140
        | 3819 | 3854 | 3988 | 4025 => Verdict::Statement,
        _ => Verdict::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(mysql(1213), Verdict::Conflict);
        assert_eq!(mysql(1366), Verdict::Statement);
        assert_eq!(mysql(1290), Verdict::Away);
        assert_eq!(mysql(1142), Verdict::Away);
        assert_eq!(mysql(1180), Verdict::Unclear);
        assert_eq!(mysql(9999), Verdict::Unclear);
    }
}
