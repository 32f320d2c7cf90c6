//! Where randomness comes from that nobody hands in: the library's election timeouts, the order of hash tables and which of several ready
//! branches a `select!` takes all begin with getrandom(2). In the thread of a run they begin with its seed.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::mem::MaybeUninit;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

thread_local! {
    static SEEDED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// What this thread asks the system for comes from the seed from now on. Only what has not asked yet: a run has a thread of its own.
pub fn seed(seed: u64) {
    SEEDED.set(Some(StdRng::seed_from_u64(seed)));
}

/// In the place of the C library's function of this name, which the standard library and crates call.
#[unsafe(no_mangle)]
extern "C" fn getrandom(buffer: *mut MaybeUninit<u8>, length: usize, flags: libc::c_uint) -> isize {
    let is_seeded = SEEDED.try_with(|seeded| {
        let Ok(mut seeded) = seeded.try_borrow_mut() else { return false };
        let Some(rng) = seeded.as_mut() else { return false };
        if length > 0 {
            // SAFETY: as the system call has it, `length` bytes at `buffer` are the caller's to be written.
            let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
            for byte in bytes {
                byte.write(rng.next_u32() as u8);
            }
        }
        true
    });
    match is_seeded {
        Ok(true) => length.cast_signed(),
        // SAFETY: the arguments are those of the system call, which checks them; it sets errno as the C library's function does.
        _ => unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as isize },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::hash_map::RandomState;
    use std::hash::BuildHasher as _;

    /// What the standard library and the crates that draw numbers come to, in a new thread.
    fn drawn(from: Option<u64>) -> (u64, u64) {
        let draw = move || {
            from.into_iter().for_each(super::seed);
            (RandomState::new().hash_one(1), rand::random())
        };
        std::thread::spawn(draw).join().expect("it does not panic")
    }

    #[test]
    fn a_seed_decides_what_the_system_gives() {
        assert_eq!(drawn(Some(7)), drawn(Some(7)));
        let (one, other) = (drawn(Some(7)), drawn(Some(8)));
        assert!(one.0 != other.0 && one.1 != other.1, "both the standard library and crates are seeded");
        assert_ne!(drawn(None), drawn(None));
    }
}
