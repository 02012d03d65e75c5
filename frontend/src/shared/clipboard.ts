/** Copies text, and says so; where the browser does not allow it, shows the text to be copied. */
import { toast } from "./toast";

export async function copyText(text: string, said: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
    toast(said);
  } catch {
    toast(`Copy this: ${text}`);
  }
}
