//! The processor time of a process.

use std::time::Duration;

/// What a process has used, in user and kernel mode, its threads that have ended included.
pub fn used(process: i32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    ticks(&stat).map(|ticks| {
        let second = rustix::param::clock_ticks_per_second().max(1);
        Duration::from_secs(ticks) / u32::try_from(second).unwrap_or(u32::MAX)
    })
}

/// Fields 14 and 15 (proc(5)). The second is the program's name in parentheses, which may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    const USER: usize = 14 - 3;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(USER);
    let mut field = || fields.next()?.parse::<u64>().ok();
    field()?.checked_add(field()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_system_time_are_added_whatever_the_program_is_called() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 120 34 0 0 20";
        assert_eq!(ticks(stat), Some(154));
        assert_eq!(ticks("42 (x) S 1"), None);
    }

    #[test]
    fn this_process_is_seen_to_work_and_one_that_is_none_is_not() {
        let me = i32::try_from(std::process::id()).unwrap();
        let before = used(me).unwrap();
        while used(me).unwrap() == before {}
        assert_eq!(used(-1), None);
    }
}
