//! Which file an address comes from, for programs without symbols.

use std::{fs, ops::Range};

/// The files that this process has mapped to execute.
pub(crate) struct Maps(Vec<(Range<usize>, usize, String)>);

impl Maps {
    pub(crate) fn load() -> Maps {
        Maps::read(&fs::read_to_string("/proc/self/maps").unwrap_or_default())
    }

    fn read(text: &str) -> Maps {
        Maps(text.lines().filter_map(line).collect())
    }

    /// The file's name, and where in it the address is.
    pub(crate) fn place(&self, address: usize) -> Option<(&str, usize)> {
        let (range, offset, file) = self.0.iter().find(|(range, ..)| range.contains(&address))?;
        Some((file, (address - range.start).checked_add(*offset)?))
    }
}

/// `7f..-7f.. r-xp 00001000 08:01 1234   /lib/libc.so.6`
fn line(text: &str) -> Option<(Range<usize>, usize, String)> {
    let mut fields = text.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let hex = |digits: &str| usize::from_str_radix(digits, 16).ok();
    let executable = fields.next()?.contains('x');
    let offset = hex(fields.next()?)?;
    let file = fields.nth(2)?.rsplit('/').next()?.to_owned();
    executable.then_some((hex(start)?..hex(end)?, offset, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_somewhere_in_a_file_or_nowhere() {
        let body = |data: &[u8]| {
            let maps = Maps::read(&String::from_utf8_lossy(data));
            for address in [0, 1, 0x7f00_0000_1234, usize::MAX - 1, usize::MAX] {
                assert!(maps.place(address).is_none_or(|(file, _)| !file.contains('/')));
            }
        };
        let own = fs::read_to_string("/proc/self/maps").unwrap();
        let own: String = own.lines().take(40).map(|line| format!("{line}\n")).collect();
        let made = "0-ffffffffffffffff r-xp ffffffffffffffff 08:01 1234   /lib/libc.so.6\n";
        lyceum_fuzz::Fuzz::new("memory maps").seeds([own, made.to_owned()]).run(body);
    }
}
