//! Numbers that look random and are the same again for the same seed: whatever is made up, can be
//! repeated.

/// The generator splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014):
/// every seed is as good as any other, 0 as well.
#[derive(Debug)]
pub struct Chance(u64);

impl Chance {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any 64 bits.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 if there is none.
    pub fn up_to(&mut self, bound: u64) -> u64 {
        self.number() % bound.max(1)
    }

    /// Puts them into another order, each order as likely as any other (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.up_to(last as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn these_are_the_numbers_of_splitmix64() {
        // As in the published code (https://prng.di.unimi.it/splitmix64.c), from 1234567.
        let mut chance = Chance::new(1_234_567);
        let numbers = [(); 3].map(|()| chance.number());
        assert_eq!(
            numbers,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn numbers_stay_below_the_bound_and_take_all_values() {
        let mut chance = Chance::new(0);
        let mut seen = [false; 7];
        for _ in 0..200 {
            seen[chance.up_to(7) as usize] = true;
        }
        assert_eq!(seen, [true; 7]);
        assert_eq!([chance.up_to(0), chance.up_to(1)], [0, 0]);
    }

    #[test]
    fn all_orders_come_about_equally_often() {
        let mut chance = Chance::new(1);
        let mut seen = std::collections::BTreeMap::new();
        for _ in 0..6000 {
            let mut items = [1, 2, 3];
            chance.shuffle(&mut items);
            *seen.entry(items).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 6);
        assert!(seen.values().all(|n| (850..1150).contains(n)), "{seen:?}");
    }
}
