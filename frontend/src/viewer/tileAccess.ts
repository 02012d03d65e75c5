/** Tiles are addressed by a token that lives for an hour: it is renewed in time, and after sleep. */
import { toast, toastError } from "../shared/toast";

const RENEWAL_MS = 45 * 60 * 1000;

export class TileAccess {
  private since = Date.now();
  private renewing = false;
  private told = false;

  /** `renew` fetches new addresses; `reload` asks for the tiles again. */
  constructor(
    private readonly renew: () => Promise<void>,
    private readonly reload: () => void,
  ) {
    setInterval(() => void this.renewNow().catch(toastError), RENEWAL_MS);
  }

  private async renewNow(): Promise<void> {
    await this.renew();
    this.since = Date.now();
  }

  /** A tile did not come: the token ran out (the computer slept), or the slide has a fault. */
  async failed(): Promise<void> {
    if (this.renewing) return;
    if (Date.now() - this.since < RENEWAL_MS) {
      if (!this.told) toast("Parts of the image could not be loaded.");
      this.told = true;
      return;
    }
    this.renewing = true;
    try {
      await this.renewNow();
      this.reload();
    } finally {
      this.renewing = false;
    }
  }
}
