//! Names of addresses.

use crate::maps::Maps;

pub(crate) struct Symbols(Maps);

/// What is further out is how every thread of a Rust program begins.
const OUTERMOST: &str = "__rust_begin_short_backtrace";

impl Symbols {
    pub(crate) fn load() -> Symbols {
        Symbols(Maps::load())
    }

    /// One line a function, of where a thread is and of return addresses; several an address where functions were inlined.
    pub(crate) fn frames(&self, addresses: &[usize]) -> Vec<String> {
        let is_known = |address: &&usize| **address != 0;
        let places = addresses.iter().take_while(is_known).enumerate();
        // A return address is behind its call, which may be the last of its line, or function.
        let lines = places.flat_map(|(at, address)| self.lines(*address, address - usize::from(at > 0)));
        lines.take_while(|line| !line.contains(OUTERMOST)).collect()
    }

    fn lines(&self, address: usize, within: usize) -> Vec<String> {
        let mut lines = Vec::new();
        backtrace::resolve(within as *mut _, |symbol| {
            let Some(name) = symbol.name() else { return };
            let mut line = format!("{name:#}");
            if let (Some(file), Some(number)) = (symbol.filename(), symbol.lineno()) {
                line += &format!(" ({}:{number})", file.display());
            }
            lines.push(line);
        });
        if lines.is_empty() {
            lines.push(match self.0.place(address) {
                Some((file, offset)) => format!("{file}+{offset:#x}"),
                None => format!("{address:#x}"),
            });
        }
        lines
    }
}
